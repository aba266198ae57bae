"""Encoding: the same embeddings for any shards and batches, and the same bytes after any interruption."""

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
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.encoding.batches import length_batches
from dpr_lightning.encoding.stage import ShardEncoder, encode_passages
from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.packed import PackedEncoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

ROWS = 1200  # rows of the corpus whose encoding is interrupted: 150 chunks


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
def test_embeddings_equal_those_of_each_passage_alone(
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


def bits(array):
    return array.view(np.uint32).tolist()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_an_embedding_depends_on_its_text_alone_bit_for_bit(bi_encoder, tmp_path_factory, data):
    """Duplicates, other neighbours, batches, chunks, shards and threads change no bit."""
    precision, folder = data.draw(st.sampled_from(["32", "bf16", "int8"])), tmp_path_factory.mktemp("bits")
    texts = data.draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60), min_size=1, max_size=9))
    rows = data.draw(st.lists(st.sampled_from(texts), min_size=1, max_size=40))
    docids = [f"d{i}" for i in range(len(rows))]
    passages = [{"docid": d, "title": "", "text": " ".join(row)} for d, row in zip(docids, rows, strict=True)]
    source, known, threads = open_corpus(str(write_jsonl(folder / "c.jsonl", passages))), {}, torch.get_num_threads()
    for trial in range(3):
        budget, chunk = data.draw(st.sampled_from([1, 100, 700, 2048])), data.draw(st.integers(1, 50))
        shards = data.draw(st.integers(1, 3))
        made = encoder(bi_encoder, source, precision=precision, tokens_per_batch=budget, chunk_size=chunk)
        torch.set_num_threads(data.draw(st.integers(1, 2)))
        try:
            for shard in range(shards):
                path = folder / f"{trial}-{shard}.safetensors"
                made.encode(path, shard=shard, num_shards=shards)
                for docid, embedding in zip((found := open_embeddings(path)).ids, found.array, strict=True):
                    text = passages[int(docid[1:])]["text"]
                    assert known.setdefault(text, bits(embedding)) == bits(embedding)
        finally:
            torch.set_num_threads(threads)


def test_queries_use_the_query_encoder_and_their_own_length(tiny_model, world, tmp_path):
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
def test_batches_have_every_row_once_and_fill_the_budget(lengths, tokens_per_batch, multiple):
    def rounded(row):
        return lengths[row] if multiple is None else -(-lengths[row] // multiple) * multiple

    batches = list(length_batches(lengths, tokens_per_batch, multiple))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        sizes = [rounded(row) for row in batch]
        assert len(batch) == 1 or sum(sizes) <= tokens_per_batch
        assert multiple is None or len(set(sizes)) == 1
        if len(following) and (multiple is None or rounded(following[0]) == sizes[0]):
            assert sum(sizes) + rounded(following[0]) > tokens_per_batch
    assert [lengths[row] for row in np.concatenate(batches)] == sorted(lengths, reverse=True)


# Interruption


class Forks:
    """Processes that encode the same corpus into the same file, one after another."""

    def __init__(self, process, file):
        self.process, self.file = process, file
        self.partial = file.with_name(file.name + ".partial")

    def start_and_signal(self, size, number):
        """Start one, send it signal `number` once the partial file has `size` bytes, and return its id."""
        print("go", file=self.process.stdin, flush=True)
        pid = int(self.process.stdout.readline())
        give_up = time.monotonic() + 60
        while not (self.partial.exists() and self.partial.stat().st_size >= size):
            assert time.monotonic() < give_up, "the partial file does not grow"
            os.sched_yield()
        os.kill(pid, number)
        return pid

    def kill_in(self, function, lines):
        """Start one that kills itself after so many lines since it entered a function; return where it was killed."""
        print(function, lines, file=self.process.stdin, flush=True)
        self.process.stdout.readline()
        killed_in = self.process.stdout.readline().strip()
        if killed_in != "ended":
            self.ended()
        return killed_in

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


def test_a_rerun_after_kill_at_any_size_gives_the_same_bytes(forks, tiny_model, long_corpus, tmp_path):
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


def test_a_rerun_after_kill_at_any_line_gives_the_same_bytes(forks, tiny_model, long_corpus, tmp_path):
    made = encoder(load_bi_encoder(tiny_model), open_corpus(str(long_corpus)), chunk_size=8)
    made.encode(tmp_path / "undisturbed.safetensors")
    random, killed_in, last = Random(0), [], 0
    for _ in range(20):
        killed_in.append(forks.kill_in(random.choice(["__init__", "append", "append"]), random.randint(1, 200)))
        assert forks.partial.exists()
    assert {"_continue", "append", "_write", "flush_to_disk"} < set(killed_in)
    while forks.partial.exists():
        last += 1
        killed_in.append(forks.kill_in("finish", last))
    assert last > 5
    assert "ended" not in killed_in  # the last kill was right after the rename
    assert forks.file.read_bytes() == (tmp_path / "undisturbed.safetensors").read_bytes()
    with pytest.raises(UserError, match="is finished already"):
        made.encode(forks.file)


@pytest.mark.parametrize("packs", [False, True])
def test_only_missing_rows_are_encoded(bi_encoder, corpus, tmp_path, packs):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    encoder(bi_encoder, corpus, packs=packs).encode(whole)
    after_row_27 = 5 + 12 * 32 * 4 + 41 * 8 + len("".join(f"d{i}" for i in range(40)))
    file.with_name("x.safetensors.partial").write_bytes(whole.read_bytes()[:-after_row_27])
    summary = encoder(bi_encoder, corpus, packs=packs).encode(file)
    assert "40 rows, 19 of them now" in summary  # 21 are in complete chunks of 7
    assert file.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "changes", [{"dtype": "float16"}, {"precision": "bf16"}, {"chunk_size": 8}, {"tokens_per_batch": 64}], ids=str
)
def test_a_partial_with_other_settings_is_refused(bi_encoder, corpus, tmp_path, changes):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    encoder(bi_encoder, corpus, **changes).encode(whole)
    whole.rename(file.with_name("x.safetensors.partial"))
    with pytest.raises(UserError, match=r"x\.safetensors\.partial was begun with another model, data set or setting"):
        encoder(bi_encoder, corpus).encode(file)


def test_reduced_precision_does_not_change_the_model(tiny_model, corpus, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model)
    before = bi_encoder.fingerprint()
    made = encoder(bi_encoder, corpus, precision="bf16")
    assert bi_encoder.fingerprint() == made.model_fingerprint == before
    assert next(made.encoder.parameters()).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_a_gpu_gives_the_same_embeddings_and_model(tiny_model, corpus, one_by_one, tmp_path, precision):
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


def test_a_partial_is_not_continued_with_another_max_length(tiny_model, corpus, tmp_path):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "x.safetensors"
    encoder(load_bi_encoder(tiny_model), corpus).encode(whole)
    whole.rename(file.with_name("x.safetensors.partial"))
    with pytest.raises(UserError, match="was begun with another model"):
        encoder(load_bi_encoder(tiny_model, settings=Settings(passage_max_length=155)), corpus).encode(file)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="cannot measure memory")
def test_memory_does_not_grow_with_the_corpus(tiny_model, tmp_path):
    """The embeddings of the additional passages would take 10 % more; their token ids, more than that."""
    command = [sys.executable, Path(__file__).with_name("encode_memory.py"), tiny_model, tmp_path, "200000", "500000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    few, many = map(int, done.stdout.split())
    assert 50_000 < few <= many < 1.07 * few  # 1.03 on two cores: the allocator's spare pages


# Embeddings that are not finite


def first_with(word):
    return next(i for i in range(40) if word in f"{passage(i)['title']} {passage(i)['text']}".split())


def test_a_nan_stops_names_the_docid_and_keeps_earlier_chunks(tiny_model, corpus, tmp_path):
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


def test_values_beyond_float16_are_refused(tiny_model, corpus, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model)
    with torch.no_grad():
        bi_encoder.passage.transformer.encoder.layer[-1].output.LayerNorm.weight.mul_(1e6)
    with pytest.raises(UserError, match=r"^the embedding of 'd0' is not finite\. .*`dtype`=float32"):
        encoder(bi_encoder, corpus, dtype="float16").encode(tmp_path / "x.safetensors")
    encoder(bi_encoder, corpus).encode(tmp_path / "y.safetensors")
    assert np.isfinite(open_embeddings(tmp_path / "y.safetensors").array).all()


# Finished files


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def test_finished_shards_are_skipped_and_missing_ones_encoded(bi_encoder, corpus, run):
    made = encoder(bi_encoder, corpus)
    encode_passages(run, made, shard=1, num_shards=3)
    finished = run.passage_shard(1, 3).stat().st_ino
    with pytest.raises(UserError, match=r"01-of-03\.safetensors is finished already\. Set overwrite=true"):
        encode_passages(run, made, shard=1, num_shards=3)
    assert "2 of 3 shards encoded, 1 existed already" in encode_passages(run, made, shard=None, num_shards=3)
    assert run.passage_shard(1, 3).stat().st_ino == finished
    assert "0 of 3 shards encoded, 3 existed already" in encode_passages(run, made, shard=None, num_shards=3)
    (docids,) = open_passages(run.passage_shards).docids([np.arange(40)])
    assert docids == [f"d{i}" for i in range(40)]


def test_a_shard_of_another_model_or_corpus_is_refused(bi_encoder, tiny_model, corpus, run, tmp_path):
    encode_passages(run, encoder(bi_encoder, corpus), shard=0, num_shards=2)
    old = run.passage_shard(0, 2).read_bytes()
    other_model = encoder(load_bi_encoder(tiny_model), corpus)
    with pytest.raises(UserError, match=r"00-of-02\.safetensors is of another model than this run's"):
        encode_passages(run, other_model, shard=None, num_shards=2)
    rows = [passage(i) for i in range(39)]
    other_corpus = open_corpus(str(write_jsonl(tmp_path / "shorter.jsonl", rows)))
    with pytest.raises(UserError, match=r"00-of-02\.safetensors is of another data than this run's"):
        encode_passages(run, encoder(bi_encoder, other_corpus), shard=None, num_shards=2)
    assert run.passage_shard(0, 2).read_bytes() == old

    replacing = encoder(load_bi_encoder(tiny_model), corpus, overwrite=True)
    assert "2 of 2 shards encoded" in encode_passages(run, replacing, shard=None, num_shards=2)
    assert open_passages(run.passage_shards).model_fingerprint == replacing.model_fingerprint


def test_a_shard_under_another_shard_s_name_is_refused(bi_encoder, corpus, run):
    made = encoder(bi_encoder, corpus)
    encode_passages(run, made, shard=1, num_shards=2)
    run.passage_shard(1, 2).rename(run.passage_shard(0, 2))
    with pytest.raises(UserError, match=r"00-of-02\.safetensors is of another shard than this run's"):
        encode_passages(run, made, shard=None, num_shards=2)


def test_shards_of_another_number_are_refused_by_name(bi_encoder, corpus, run):
    made = encoder(bi_encoder, corpus)
    encode_passages(run, made, shard=1, num_shards=3)
    message = r"shards of another number than num_shards=2: 01-of-03\.safetensors\. Delete them"
    for shard in (0, None):
        with pytest.raises(UserError, match=message):
            encode_passages(run, made, shard=shard, num_shards=2)


def test_more_shards_than_rows_give_the_same_ranking(bi_encoder, corpus, world, tmp_path):
    queries = encoder(bi_encoder, open_queries(str(world / "test.jsonl")), side="query")
    made, rankings = encoder(bi_encoder, corpus), []
    for num_shards in (1, 45):
        run = RunDir(tmp_path / str(num_shards))
        queries.encode(run.query_embeddings("test"))
        encode_passages(run, made, shard=None, num_shards=num_shards)
        search(run, split="test", depth=40)
        rankings.append(run.ranking("test").read_text().splitlines())
    shards = open_passages(run.passage_shards).shards
    assert [len(shard.ids) for shard in shards].count(0) == 5
    assert shards[0].array.shape == (0, 32)
    shards[0].verify()
    assert len(rankings[0]) == 12 * 40
    # A passage alone in its batch may differ in the last bit, so scores are compared as numbers.
    for a, b in zip(*rankings, strict=True):
        assert float(a.split()[4]) == pytest.approx(float(b.split()[4]), abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"side": "document"}, "side: 'document' is not possible"),
        ({"precision": "8"}, "precision: '8' is not possible"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16' is not possible"),
        ({"chunk_size": 0}, "chunk_size: 0 is not a whole number"),
        ({"tokens_per_batch": "many"}, "tokens_per_batch: 'many' is not a whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_named(bi_encoder, corpus, setting, message):
    with pytest.raises(UserError, match=f"^{message}"):
        encoder(bi_encoder, corpus, **setting)


def test_a_model_that_embeds_all_texts_alike_is_refused(tiny_model, world, tmp_path):
    bi_encoder = load_bi_encoder(tiny_model)
    last = [module for module in bi_encoder.passage.modules() if isinstance(module, torch.nn.LayerNorm)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(1)
    encoder = ShardEncoder(bi_encoder, open_corpus(str(world / "corpus.jsonl")), side="passage")
    with pytest.raises(UserError, match="gives different texts nearly the same embedding"):
        encoder.encode(tmp_path / "00-of-01.safetensors")
    assert not (tmp_path / "00-of-01.safetensors").exists()
