"""A small world of questions and passages, and the settings that point a command at it."""

import gzip
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data" / "nq-mini"
WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvz"]


def passage(number):
    """Passage `number` of the small world: its text names three words that no other passage combines."""
    words = [WORDS[number % 240], WORDS[(number * 7 + 3) % 240], WORDS[(number * 13 + 5) % 240]]
    return {"docid": f"d{number}", "title": words[0], "text": " ".join(words * (1 + number % 4))}


def question(number):
    """Question `number`, answered by passage `number`."""
    own = passage(number)
    return {"query_id": f"q{number}", "query": f"{own['title']} {own['text'].split()[1]}", "answers": [own["title"]]}


def training_row(number, negatives=3):
    """Question `number` with its passage and the next ones as hard negatives."""
    others = [passage((number + 1 + i) % 40) for i in range(negatives)]
    return {**question(number), "positive_passages": [passage(number)], "negative_passages": others}


def write_jsonl(path, rows):
    """Writes rows as JSON Lines, compressed where the name ends in .gz."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def settings_of(world, model, run_dir):
    """Overrides that point a command at the files of `world`, a model and a run folder."""
    return [
        "data=files",
        f"data.train={world}/train.jsonl.gz",
        f"data.dev={world}/dev.jsonl",
        f"data.corpus={world}/corpus.jsonl",
        f"data.queries.test={world}/test.jsonl",
        f"data.qrels.test={world}/test.qrels",
        "data.batch_size=8",
        "data.num_workers=0",
        f"model.name_or_path={model}",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false",
        "num_shards=3",
        "depth=20",
        f"run_dir={run_dir}",
    ]


def write_world(folder):
    """Write the files of the small world: 40 passages, 32 training, 8 dev and 12 test questions, qrels."""
    write_jsonl(folder / "corpus.jsonl", [passage(i) for i in range(40)])
    write_jsonl(folder / "train.jsonl.gz", [training_row(i) for i in range(32)])
    write_jsonl(folder / "dev.jsonl", [training_row(i) for i in range(32, 40)])
    write_jsonl(folder / "test.jsonl", [question(i) for i in range(0, 36, 3)])
    (folder / "test.qrels").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(0, 36, 3)))
    return folder


def save_tiny_model(folder):
    """Save a BERT with 2 layers of 32 units, random weights from a fixed seed, and a word-piece tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.2,
    }
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=160, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
