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
