"""Encoding: the same embeddings however rows are cut and batched, and the same bytes after any interruption."""

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import WORDS, passage, question, write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.shards import open_shards
from dpr_lightning.encoding.loop import length_batches
from dpr_lightning.encoding.stage import ShardEncoder, encode_passages
from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.packed import PackedEncoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.retrieval.stage import search

ROWS = 1200  # of the corpus whose encoding is interrupted: 150 chunks


@pytest.fixture(scope="module")
def corpus(world):
    return open_corpus(str(world / "corpus.jsonl"))


@pytest.fixture(scope="module")
def bi_encoder(tiny_model):
    return load_bi_encoder(tiny_model, settings=Settings(tied=False, pooling="mean", passage_max_length=16))


@pytest.fixture(scope="module")
def one_by_one(bi_encoder, corpus):
    """Embeddings of the 40 passages, each tokenized and encoded alone and without padding."""
    tokenizer = bi_encoder.inputs.tokenizer
    embeddings = []
    with torch.no_grad():
        for row in corpus.rows:
            text = f"{row['title']} {row['text']}"
            ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")["input_ids"]
            hidden = bi_encoder.passage.eval().transformer(ids).last_hidden_state
            embeddings.append(hidden[0].mean(0).numpy())
    return np.stack(embeddings)


def encoder(bi_encoder, source, *, packs=False, **changes):
    made = ShardEncoder(bi_encoder, source, **{"side": "passage", "precision": "32", "chunk_size": 7, **changes})
    if packs:  # as on a GPU
        made.encoder = PackedEncoder(copy.deepcopy(made.encoder))
    return made


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 4), st.booleans(), st.data())
def test_embeddings_are_those_of_each_passage_alone(
    bi_encoder, corpus, one_by_one, tmp_path_factory, tokens_per_batch, chunk_size, num_shards, packs, data
):
    shard = data.draw(st.integers(0, num_shards - 1))
    path = tmp_path_factory.mktemp("shard") / "x.safetensors"
    made = encoder(bi_encoder, corpus, packs=packs, tokens_per_batch=tokens_per_batch, chunk_size=chunk_size)
    made.encode(path, shard=shard, num_shards=num_shards)
    found = open_embeddings(path)
    rows = range(shard * 40 // num_shards, (shard + 1) * 40 // num_shards)
    assert list(found.ids) == [f"d{row}" for row in rows]
    assert found.identity.first_row == rows.start
    # Float32 sums in another order; the numbers are of the order of 1.
    np.testing.assert_allclose(found.array, one_by_one[rows.start : rows.stop], rtol=0, atol=3e-6)


def test_queries_get_the_query_encoder_and_their_own_length(tiny_model, world, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model, settings=Settings(tied=False, query_max_length=4))
    with torch.no_grad():
        for parameter in bi_encoder.passage.parameters():
            parameter.zero_()
    source = open_queries(str(world / "test.jsonl"))
    encoder(bi_encoder, source, side="query").encode(tmp_path / "test.safetensors")
    found = open_embeddings(tmp_path / "test.safetensors")
    assert list(found.ids) == [f"q{i}" for i in range(0, 36, 3)]
    assert found.identity.side == "query"
    for row, number in enumerate(range(0, 36, 3)):
        ids = bi_encoder.inputs.tokenizer(question(number)["query"], truncation=True, max_length=4, return_tensors="pt")
        with torch.no_grad():
            alone = bi_encoder.query.transformer(ids["input_ids"]).last_hidden_state[0, 0]
        np.testing.assert_allclose(found.array[row], alone, rtol=0, atol=3e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 2000), st.sampled_from([None, 1, 8]))
def test_batches_hold_every_row_once_and_as_many_as_fit_the_budget(lengths, tokens_per_batch, multiple):
    def size(batch):
        found = [lengths[row] for row in batch]
        return sum(found) if multiple is None else len(found) * (-(-max(found) // multiple) * multiple)

    batches = list(length_batches(lengths, tokens_per_batch, multiple))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        assert len(batch) == 1 or size(batch) <= tokens_per_batch
        assert len(following) == 0 or size([*batch, following[0]]) > tokens_per_batch
    assert [lengths[row] for row in np.concatenate(batches)] == sorted(lengths, reverse=True)


# Interruption


class Forks:
    """Processes that encode the same corpus into the same file, one after another."""

    def __init__(self, process, file):
        self.process, self.file = process, file
        self.partial = file.with_name(file.name + ".partial")

    def start_and_signal(self, size, number):
        """Starts one, and sends it signal `number` once the partial file has `size` bytes; returns its id."""
        print("go", file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        give_up = time.monotonic() + 60
        while not (self.partial.exists() and self.partial.stat().st_size >= size):
            assert time.monotonic() < give_up, "the partial file does not grow"
            os.sched_yield()
        os.kill(pid, number)
        return pid

    def kill_in(self, function, lines):
        """Starts one that kills itself when it has run so many lines since it entered a function; returns where."""
        print(function, lines, file=self.process.stdin, flush=True)
        self.process.stdout.readline()
        place = self.process.stdout.readline().strip()
        if place != "ended":
            self.ended()
        return place

    def ended(self):
        assert self.process.stdout.readline() == "ended\n"


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    rows = [{**passage(i), "docid": f"d{i}"} for i in range(ROWS)]
    return write_jsonl(tmp_path_factory.mktemp("long") / "corpus.jsonl", rows)


@pytest.fixture
def forks(tiny_model, long_corpus, tmp_path):
    file = tmp_path / "00-of-01.safetensors"
    open_corpus(str(long_corpus))  # into the cache
    script = Path(__file__).with_name("encode_forks.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script, tiny_model, long_corpus, file]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
        yield Forks(process, file)
        process.stdin.close()


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes_and_one_process_holds_a_shard(
    forks, tiny_model, long_corpus, tmp_path
):
    made = encoder(load_bi_encoder(tiny_model), open_corpus(str(long_corpus)), chunk_size=8)
    made.encode(tmp_path / "undisturbed.safetensors")
    undisturbed = (tmp_path / "undisturbed.safetensors").read_bytes()
    row_bytes = 32 * 4
    before_rows = len(undisturbed) - open_embeddings(tmp_path / "undisturbed.safetensors").array.nbytes
    before_rows -= 8 * (ROWS + 1) + sum(len(f"d{i}") for i in range(ROWS))

    sizes = []
    for size in (0, 1, before_rows + 10 * row_bytes, before_rows + ROWS // 2 * row_bytes):
        forks.start_and_signal(size, signal.SIGKILL)
        forks.ended()
        assert not forks.file.exists()
        sizes.append(forks.partial.stat().st_size)
    assert sizes == sorted(sizes)

    stopped = forks.start_and_signal(before_rows + ROWS * 3 // 4 * row_bytes, signal.SIGSTOP)
    with pytest.raises(UserError, match=r"00-of-01\.safetensors is being written by another process"):
        made.encode(forks.file)
    os.kill(stopped, signal.SIGKILL)
    forks.ended()
    assert sizes[-1] < forks.partial.stat().st_size < len(undisturbed)

    assert f"{ROWS:,} rows, " in made.encode(forks.file)
    assert forks.file.read_bytes() == undisturbed
    assert not forks.partial.exists()


def test_killed_at_twenty_random_lines_and_at_every_line_of_the_end_it_gives_the_same_bytes(
    forks, tiny_model, long_corpus, tmp_path
):
    made = encoder(load_bi_encoder(tiny_model), open_corpus(str(long_corpus)), chunk_size=8)
    made.encode(tmp_path / "undisturbed.safetensors")
    random, places, last = Random(0), [], 0
    for _ in range(20):
        places.append(forks.kill_in(random.choice(["__init__", "append", "append"]), random.randint(1, 200)))
        assert forks.partial.exists()
    assert {"_continue", "append", "_write", "flush_to_disk"} < set(places)
    while forks.partial.exists():
        last += 1
        places.append(forks.kill_in("finish", last))
    assert last > 5
    assert "ended" not in places  # the last kill came right after the rename
    assert forks.file.read_bytes() == (tmp_path / "undisturbed.safetensors").read_bytes()
    with pytest.raises(UserError, match="is finished already"):
        made.encode(forks.file)


@pytest.mark.parametrize("packs", [False, True])
def test_only_the_rows_that_are_missing_are_encoded(bi_encoder, corpus, tmp_path, packs):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    encoder(bi_encoder, corpus, packs=packs).encode(whole)
    behind_row_27 = 5 + 12 * 32 * 4 + 41 * 8 + len("".join(f"d{i}" for i in range(40)))
    file.with_name("x.safetensors.partial").write_bytes(whole.read_bytes()[:-behind_row_27])
    summary = encoder(bi_encoder, corpus, packs=packs).encode(file)
    assert "40 rows, 19 of them now" in summary  # 21 are in whole chunks of 7
    assert file.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "changes", [{"dtype": "float16"}, {"precision": "bf16"}, {"chunk_size": 8}, {"tokens_per_batch": 64}], ids=str
)
def test_a_partial_by_other_settings_is_refused(bi_encoder, corpus, tmp_path, changes):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    encoder(bi_encoder, corpus, **changes).encode(whole)
    whole.rename(file.with_name("x.safetensors.partial"))
    with pytest.raises(UserError, match=r"x\.safetensors\.partial was begun with another model, data set or setting"):
        encoder(bi_encoder, corpus).encode(file)


def test_reduced_precision_leaves_the_model_as_it_was(tiny_model, corpus, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model)
    before = bi_encoder.fingerprint()
    made = encoder(bi_encoder, corpus, precision="bf16")
    assert bi_encoder.fingerprint() == made.model_fingerprint == before
    assert next(made.encoder.parameters()).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_a_gpu_gives_the_same_embeddings_and_leaves_the_model_as_it_was(
    tiny_model, corpus, one_by_one, tmp_path, precision
):
    bi_encoder = load_bi_encoder(tiny_model, settings=Settings(tied=False, pooling="mean", passage_max_length=16))
    batch = bi_encoder.inputs.pad(bi_encoder.inputs.encode_queries(["a b", "c"]))
    bi_encoder.eval()
    with torch.no_grad():
        before = bi_encoder.passage(**batch)
    made = encoder(bi_encoder, corpus, device="cuda", precision=precision)
    assert isinstance(made.encoder, PackedEncoder) == (precision != "32")
    made.encode(tmp_path / "x.safetensors")
    # The numbers are of the order of 1; bfloat16 has 8 bits.
    found = open_embeddings(tmp_path / "x.safetensors").array
    np.testing.assert_allclose(found, one_by_one, rtol=0, atol=1e-4 if precision == "32" else 0.05)
    with torch.no_grad():
        assert torch.equal(bi_encoder.cpu().passage(**batch), before)


def test_a_model_with_another_length_does_not_continue_a_partial(tiny_model, corpus, tmp_path):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    encoder(load_bi_encoder(tiny_model), corpus).encode(whole)
    whole.rename(file.with_name("x.safetensors.partial"))
    with pytest.raises(UserError, match="was begun with another model"):
        encoder(load_bi_encoder(tiny_model, settings=Settings(passage_max_length=155)), corpus).encode(file)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="cannot tell the memory in use")
def test_ten_times_as_many_passages_take_no_more_memory(tiny_model, tmp_path):
    """Embeddings of the passages added would be 6 % of it, their token ids 20 %."""
    command = [sys.executable, Path(__file__).with_name("encode_memory.py"), tiny_model, tmp_path, "20000", "200000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    few, many = map(int, done.stdout.split())
    assert 50_000 < few <= many < 1.05 * few


# Embeddings that are not finite


def first_with(word):
    return next(i for i in range(40) if word in f"{passage(i)['title']} {passage(i)['text']}".split())


def test_a_nan_stops_and_names_the_docid_and_keeps_the_chunks_before(tiny_model, corpus, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model)
    word = WORDS[39]
    with torch.no_grad():
        token = bi_encoder.inputs.tokenizer.convert_tokens_to_ids(word)
        bi_encoder.passage.transformer.embeddings.word_embeddings.weight[token] = torch.nan
    bad = first_with(word)
    assert bad >= 5
    with pytest.raises(UserError, match=f"^the embedding of 'd{bad}' is not finite") as caught:
        encoder(bi_encoder, corpus, chunk_size=5).encode(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors.partial"]
    with pytest.raises(UserError, match=f"^the embedding of 'd{bad}' is not finite"):
        encoder(bi_encoder, corpus, chunk_size=5).encode(tmp_path / "x.safetensors")


def test_what_overflows_float16_is_not_written(tiny_model, corpus, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model)
    with torch.no_grad():
        bi_encoder.passage.transformer.encoder.layer[-1].output.LayerNorm.weight.mul_(1e6)
    with pytest.raises(UserError, match=r"^the embedding of 'd0' is not finite\. .*encode\.dtype=float32"):
        encoder(bi_encoder, corpus, dtype="float16").encode(tmp_path / "x.safetensors")
    encoder(bi_encoder, corpus).encode(tmp_path / "y.safetensors")
    assert np.isfinite(open_embeddings(tmp_path / "y.safetensors").array).all()


# Finished files


def test_finished_shards_are_skipped_missing_ones_made_and_asked_for_ones_refused(bi_encoder, corpus, tmp_path):
    made = encoder(bi_encoder, corpus)
    encode_passages(made, tmp_path, shard=1, num_shards=3)
    there = (tmp_path / "01-of-03.safetensors").stat().st_ino
    with pytest.raises(UserError, match=r"01-of-03\.safetensors is finished already\. Set overwrite=true"):
        encode_passages(made, tmp_path, shard=1, num_shards=3)
    assert "2 of 3 shards encoded now, 1 were there" in encode_passages(made, tmp_path, shard=None, num_shards=3)
    assert (tmp_path / "01-of-03.safetensors").stat().st_ino == there
    assert "0 of 3 shards encoded now, 3 were there" in encode_passages(made, tmp_path, shard=None, num_shards=3)
    assert [docid for shard in open_shards(tmp_path) for docid in shard.ids] == [f"d{i}" for i in range(40)]


def test_a_finished_shard_of_another_model_or_corpus_is_refused(bi_encoder, tiny_model, corpus, world, tmp_path):
    encode_passages(encoder(bi_encoder, corpus), tmp_path, shard=0, num_shards=2)
    old = (tmp_path / "00-of-02.safetensors").read_bytes()
    other_model = encoder(load_bi_encoder(tiny_model), corpus)
    with pytest.raises(UserError, match=r"00-of-02\.safetensors is of another model than this run's"):
        encode_passages(other_model, tmp_path, shard=None, num_shards=2)
    rows = [passage(i) for i in range(39)]
    other_corpus = open_corpus(str(write_jsonl(tmp_path / "shorter.jsonl", rows)))
    with pytest.raises(UserError, match=r"00-of-02\.safetensors is of another data than this run's"):
        encode_passages(encoder(bi_encoder, other_corpus), tmp_path, shard=None, num_shards=2)
    assert (tmp_path / "00-of-02.safetensors").read_bytes() == old

    replacing = encoder(load_bi_encoder(tiny_model), corpus, overwrite=True)
    assert "2 of 2 shards encoded now" in encode_passages(replacing, tmp_path, shard=None, num_shards=2)
    assert {s.identity.model_fingerprint for s in open_shards(tmp_path)} == {replacing.model_fingerprint}


def test_a_shard_under_another_ones_name_is_refused(bi_encoder, corpus, tmp_path):
    made = encoder(bi_encoder, corpus)
    encode_passages(made, tmp_path, shard=1, num_shards=2)
    (tmp_path / "01-of-02.safetensors").rename(tmp_path / "00-of-02.safetensors")
    with pytest.raises(UserError, match=r"00-of-02\.safetensors is of another shard than this run's"):
        encode_passages(made, tmp_path, shard=None, num_shards=2)


def test_shards_of_another_cut_in_the_folder_are_refused_by_name(bi_encoder, corpus, tmp_path):
    made = encoder(bi_encoder, corpus)
    encode_passages(made, tmp_path, shard=1, num_shards=3)
    with pytest.raises(UserError, match=r"another cut than num_shards=2: 01-of-03\.safetensors\. Delete them"):
        encode_passages(made, tmp_path, shard=None, num_shards=2)


def test_more_shards_than_rows_give_empty_shards_and_the_same_ranking(bi_encoder, corpus, world, tmp_path):
    queries = open_queries(str(world / "test.jsonl"))
    encoder(bi_encoder, queries, side="query").encode(tmp_path / "test.safetensors")
    made = encoder(bi_encoder, corpus)
    for num_shards in (1, 45):
        folder = tmp_path / str(num_shards)
        encode_passages(made, folder / "passage", shard=None, num_shards=num_shards)
        search(tmp_path / "test.safetensors", folder / "passage", folder / "rankings", split="test", depth=40)
    assert [len(shard.ids) for shard in open_shards(tmp_path / "45" / "passage")].count(0) == 5
    assert open_shards(tmp_path / "45" / "passage")[0].array.shape == (0, 32)
    assert open_embeddings(tmp_path / "45" / "passage" / "00-of-45.safetensors").verify() is None
    one, many = ((tmp_path / n / "rankings" / "test.trec").read_text().splitlines() for n in ("1", "45"))
    assert len(one) == 12 * 40
    # A passage alone in its batch may differ in the last bit, so scores are compared as numbers.
    for a, b in zip(one, many, strict=True):
        assert float(a.split()[4]) == pytest.approx(float(b.split()[4]), abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"side": "document"}, "side: 'document' is not possible"),
        ({"precision": "8"}, "encode.precision: '8' is not possible"),
        ({"dtype": "bfloat16"}, "encode.dtype: 'bfloat16' is not possible"),
        ({"chunk_size": 0}, "encode.chunk_size: 0 is not a whole number"),
        ({"tokens_per_batch": "many"}, "encode.tokens_per_batch: 'many' is not a whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_named(bi_encoder, corpus, setting, message):
    with pytest.raises(UserError, match=f"^{message}"):
        encoder(bi_encoder, corpus, **setting)
