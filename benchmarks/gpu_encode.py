"""Measure encoding on a GPU: packed and padded sequences, torch.compile, sentence-transformers; and search there.

    PYTHONPATH=. python benchmarks/gpu_encode.py [--passages 65536] [--repeats 5] [--corpus 2000000] [--tiny]

Prints JSON lines. The model is BERT-base with random weights in bfloat16; the texts are random words, as long as 100
words of Wikipedia. Contestants take turns within one run, from texts to embeddings; ours also write a file. A large
matrix product shows which share of the device's peak they reach. `--tiny` is a smoke test for a machine without GPU.
Needs the extra `interop` for the comparison, `common.py` and `gpu_train.py` beside it, and the package.
"""

import argparse
import copy
import functools
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import report, report_ratio, take_turns, timed
from gpu_train import WORDS, make_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from dpr_lightning.embeddings.file import Identity
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.encoding.batches import length_batches
from dpr_lightning.encoding.loop import encode_rows
from dpr_lightning.encoding.progress import Progress
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import for_inference
from dpr_lightning.model.packed import PackedEncoder
from dpr_lightning.retrieval.candidates import select_candidates_torch
from dpr_lightning.retrieval.topk import topk_inner_product

CHUNK, BATCHES = 16_384, (32, 128, 512)
BLOCK = 131_072  # passages per block of the search


def random_texts(count):
    """Return texts with the lengths of 100-word passages in word pieces: about 130, 5 % of them much shorter."""
    draw = np.random.default_rng(0)
    lengths = np.where(draw.random(count) < 0.05, draw.uniform(15, 110, count), draw.normal(130, 12, count))
    return [" ".join(draw.choice(WORDS, size)) for size in lengths.clip(10, 154).astype(int)]


def seconds(run, device):
    return timed(run, torch.cuda.synchronize if device.type == "cuda" else None)[0]


def peak_flops(device, tiny):
    """Return the floating-point operations per second of a dense bfloat16 product, the best of 20."""
    size = 256 if tiny else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(20))


def model_flops(config, lengths):
    """Return the floating-point operations of the layers' products, without those for padding."""
    lengths = np.asarray(lengths, dtype=float)
    weights = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    per_layer = 2 * weights * lengths.sum() + 4 * config.hidden_size * (lengths**2).sum()
    return float(config.num_hidden_layers * per_layer)


def encode_to_file(encoder, inputs, texts, tokens_per_batch):
    """Do what encode.py does with one shard."""
    ids = [str(row) for row in range(len(texts))]
    identity = Identity("passage", 0, 1, 0, len(texts), "bf16", 65_536, "model", "data")

    def token_ids(rows):
        part = texts[rows.start : rows.stop]
        return inputs.encode_passages([""] * len(part), part)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.safetensors"
        writer = EmbeddingWriter(path, identity, ids, dim=encoder.dim, dtype="float32", chunk_size=CHUNK)
        with writer, Progress("passages", total=len(ids)) as progress:
            encode_rows(
                encoder,
                inputs,
                writer,
                ids=ids,
                token_ids=token_ids,
                tokens_per_batch=tokens_per_batch,
                cut=lambda embeddings: embeddings,
                progress=progress,
            )


def contestants(model, texts, device, tokens_per_batch):
    """Return functions that encode all texts, and the lengths in tokens."""
    bi_encoder = load_bi_encoder(model)
    inputs = bi_encoder.inputs
    padded = for_inference(bi_encoder.passage, device=device, precision="bf16")
    encoders = {"padded": padded, "packed": PackedEncoder(copy.deepcopy(padded))}
    if device.type == "cuda":
        encoders |= {f"{name}, compiled": copy.deepcopy(encoder) for name, encoder in encoders.items()}
        encoders["padded, compiled"].compile(dynamic=True)
        encoders["packed, compiled"].compile(dynamic=True)
    runs = {
        name: lambda encoder=encoder: encode_to_file(encoder, inputs, texts, tokens_per_batch)
        for name, encoder in encoders.items()
    }
    transformer = Transformer(str(model), max_seq_length=156)
    pooling = Pooling(transformer.get_embedding_dimension(), "cls")
    other = SentenceTransformer(modules=[transformer, pooling]).to(device, torch.bfloat16)
    for batch in BATCHES:
        runs[f"sentence-transformers {batch}"] = lambda batch=batch: other.encode(
            texts, batch_size=batch, show_progress_bar=False
        )

    ids = inputs.encode_passages([""] * len(texts), texts)
    lengths = [len(row) for row in ids]
    packed = encoders["packed"]
    batches = [
        {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in packed.pack([ids[row] for row in rows], fill_to=tokens_per_batch).items()
        }
        for rows in length_batches(lengths, tokens_per_batch, None)
    ]

    def forward_alone():
        with torch.inference_mode():
            for batch in batches:
                packed(**batch)

    runs["packed, forward alone"] = forward_alone
    return runs, lengths


def time_search(rows, dim, queries, device, repeats):
    """Report on exact search at depth 100 of arrays in main memory, and its share of the bare product on the device."""
    passages, asked = torch.randn(rows, dim, device=device), torch.randn(queries, dim, device=device)
    blocks = np.split(passages.cpu().numpy(), range(BLOCK, rows, BLOCK))
    select = functools.partial(select_candidates_torch, device=device.type)

    def search():
        return seconds(lambda: topk_inner_product(asked.cpu().numpy(), blocks, depth=100, select=select), device)

    def product():
        return seconds(lambda: [asked @ block.T for block in passages.split(BLOCK)], device)

    search(), product()  # warm-up
    turns = take_turns({"search": search, "product": product}, repeats)
    report(
        what=f"search, {queries:,} queries in {rows:,} x {dim} float32, depth 100",
        queries_per_s=queries / statistics.median(turns["search"]),
        share_of_product=statistics.median(b / a for a, b in zip(turns["search"], turns["product"], strict=True)),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=65_536)
    parser.add_argument("--tokens-per-batch", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--corpus", type=int, default=2_000_000)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.passages, args.tokens_per_batch, args.repeats, args.corpus = 200, 2048, 1, 20_000
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    texts = random_texts(args.passages)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), args.tiny)
        config = load_bi_encoder(folder).passage.transformer.config
        runs, lengths = contestants(Path(folder), texts, device, args.tokens_per_batch)
        for name, run in runs.items():  # compiles, and fills caches
            report(what=f"{name}, first time", seconds=seconds(run, device))
        turns = take_turns({name: lambda run=run: seconds(run, device) for name, run in runs.items()}, args.repeats)
    flops, peak = model_flops(config, lengths), peak_flops(device, args.tiny)
    for name, took in turns.items():
        median = statistics.median(took)
        report(what=name, passages_per_s=len(texts) / median, share_of_bf16_peak=flops / median / peak)
    best = min((name for name in turns if name.startswith("sentence")), key=lambda name: statistics.median(turns[name]))
    rivals = [name for name in turns if name.startswith("padded")] + [best, "packed, forward alone"]
    for name in rivals:
        report_ratio(f"packed / {name}, passages/s", turns[name], turns["packed"])
    time_search(args.corpus, 64 if args.tiny else 768, 2000, device, args.repeats)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    mean = statistics.mean(lengths)
    report(device=where, torch=torch.__version__, peak_tflops=peak / 1e12, mean_tokens=mean)


if __name__ == "__main__":
    main()
