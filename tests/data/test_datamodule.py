"""Loaders resume exactly, alone and in Lightning."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from support.model_folders import input_tokenizer
from support.world import write_jsonl
from transformers import AutoTokenizer

from dpr_lightning.data.datamodule import ResumableLoader, RetrievalDataModule
from dpr_lightning.data.sampler import TrainingBatches
from dpr_lightning.errors import UserError


class Keys(torch.utils.data.Dataset):
    """Its items are their own keys (epoch, row)."""

    def __getitem__(self, key):
        return key

    def __len__(self):
        return 11


def loader(num_workers=0, batch_size=2):
    batches = TrainingBatches(11, batch_size=batch_size, seed=3)
    return ResumableLoader(
        Keys(), batch_sampler=batches, collate_fn=list, num_workers=num_workers, persistent_workers=num_workers > 0
    )


def epochs(loader, count):
    """Return the batches of the next `count` epochs, iterated as by Lightning."""
    batches = []
    first = loader.state_dict()["epoch"]
    for epoch in range(first, first + count):
        loader.batch_sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


@pytest.mark.parametrize(("num_workers", "places"), [(0, range(11)), (2, [3, 5])])
def test_a_loader_resumes_with_exactly_the_remaining_batches(num_workers, places):
    uninterrupted = epochs(loader(), 3)
    assert len(uninterrupted) == 15
    for taken in places:
        interrupted, seen = loader(num_workers), []
        for epoch in range(3):
            interrupted.batch_sampler.set_epoch(epoch)
            for batch in interrupted:
                if len(seen) == taken:
                    break
                seen.append(batch)
                state = interrupted.state_dict()
            if len(seen) == taken:
                break
        resumed = loader(num_workers)
        resumed.load_state_dict(state if taken else loader().state_dict())
        epoch = resumed.state_dict()["epoch"]
        assert epoch == taken // 5
        assert seen + epochs(resumed, 3 - epoch) == uninterrupted


def test_the_state_is_valid_before_any_batch_is_returned():
    fresh = loader()
    assert fresh.state_dict() == {"epoch": 0, "batch": 0}
    fresh.load_state_dict({"epoch": 2, "batch": 3})
    assert fresh.state_dict() == {"epoch": 2, "batch": 3}
    iter(fresh)
    assert fresh.state_dict() == {"epoch": 2, "batch": 3}


class Recorder(pl.LightningModule):
    """Records the keys of its training batches."""

    def __init__(self, loader):
        super().__init__()
        self.loader, self.seen = loader, []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def train_dataloader(self):
        return self.loader

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight.sum()


class SaveAt(pl.Callback):
    """Saves a checkpoint after batch `step`, or at the end of its epoch."""

    def __init__(self, path, step, at_epoch_end):
        self.path, self.step, self.at_epoch_end = path, step, at_epoch_end

    def on_train_batch_end(self, trainer, *args):
        if not self.at_epoch_end and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, *args):
        if self.at_epoch_end and trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def train(batches_per_epoch, *, callbacks=(), resume_from=None):
    module = Recorder(loader())
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=batches_per_epoch,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=resume_from, weights_only=True)
    return module.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("batches_per_epoch", [5, 3])
def test_lightning_orders_each_epoch_and_resumes_anywhere(tmp_path, batches_per_epoch):
    expected = []
    for epoch in range(3):
        batches = TrainingBatches(11, batch_size=2, seed=3)
        batches.set_epoch(epoch)
        expected += list(batches)[:batches_per_epoch]
    assert train(batches_per_epoch) == expected
    for step in range(1, 2 * batches_per_epoch + 1):
        for at_epoch_end in (False, True)[: 1 + (step % batches_per_epoch == 0)]:
            path = tmp_path / f"{step}-{at_epoch_end}.ckpt"
            assert train(batches_per_epoch, callbacks=[SaveAt(path, step, at_epoch_end)]) == expected
            assert train(batches_per_epoch, resume_from=path) == expected[step:]


@pytest.fixture
def inputs(tiny_model):
    return input_tokenizer(AutoTokenizer.from_pretrained(tiny_model))


def same(left, right):
    """Return whether two batches have the same tensors."""
    flat = [[*batch.queries.values(), *batch.passages.values(), *batch[2:]] for batch in (left, right)]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*flat, strict=True))


def test_batches_are_the_same_with_and_without_workers(world, inputs):
    files = {"train": f"{world}/train.jsonl.gz", "dev": f"{world}/dev.jsonl"}
    options = {"batch_size": 6, "passages_per_query": 3, "positives": "random", "negatives": "random"}
    alone, ahead = (RetrievalDataModule(inputs, **files, **options, num_workers=n) for n in (0, 2))
    loaders = alone.train_dataloader(), ahead.train_dataloader()
    for epoch in range(2):
        for each in loaders:
            each.batch_sampler.set_epoch(epoch)
        batches = [list(each) for each in loaders]
        assert len(batches[0]) == len(batches[1]) == 5
        assert all(same(a, b) for a, b in zip(*batches, strict=True))
    assert batches[0][0].docids.shape == (18,)
    assert all(same(a, b) for a, b in zip(alone.val_dataloader(), ahead.val_dataloader(), strict=True))


def test_validation_has_each_dev_question_once(world, inputs):
    data = RetrievalDataModule(
        inputs, train=f"{world}/train.jsonl.gz", dev=f"{world}/dev.jsonl", batch_size=3, dev_negatives=2
    )
    batches = list(data.val_dataloader())
    assert [len(batch.targets) for batch in batches] == [3, 3, 2]
    assert [len(batch.docids) for batch in batches] == [9, 9, 6]


def test_there_is_no_validation_without_dev_files(world, inputs):
    assert RetrievalDataModule(inputs, train=f"{world}/train.jsonl.gz").val_dataloader() == []


def test_errors_name_the_key_of_the_data(tmp_path, world, inputs):
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"query_id": "q"}])
    train = f"{world}/train.jsonl.gz"
    for options, start in (
        ({"train": None}, "train: is not set."),
        ({"train": str(bad)}, f'train: {bad}, row 1 (query_id "q"): query is missing.'),
        ({"train": train, "dev": str(bad)}, f'dev: {bad}, row 1 (query_id "q"): query is missing.'),
        ({"train": train, "num_workers": -1}, "num_workers: -1 is not a whole number of at least 0."),
        ({"train": train, "batch_size": 0}, "batch_size: 0 is not a whole number of at least 1."),
        ({"train": train, "seed": -1}, "seed: -1 is not a whole number of at least 0."),
    ):
        with pytest.raises(UserError) as caught:
            RetrievalDataModule(inputs, **options)
        assert str(caught.value).startswith(start)


def test_too_few_rows_for_a_batch_are_told(world, inputs):
    data = RetrievalDataModule(inputs, train=f"{world}/train.jsonl.gz", batch_size=33)
    with pytest.raises(UserError, match=r"^train: 32 rows do not fill one batch of 33 questions x 1 devices"):
        data.train_dataloader()
