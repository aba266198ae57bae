"""The model card: the README.md of a model folder, which says how the model was made and how to use it."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpr_lightning.environment import commit, versions
from dpr_lightning.model.settings import Settings

CARD = "README.md"
_LIBRARIES = ("dpr_lightning", "torch", "transformers", "pytorch-lightning")
_FIGURES = "\n## Figures\n"  # always the last section, so that later figures can replace it
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Origin:
    """How a model was made.

    Attributes:
        summary: One sentence.
        data: The content of each data set, by its name, such as its fingerprint.
        config: The settings of the training as YAML; empty if unknown.
    """

    summary: str
    data: Mapping[str, str] = field(default_factory=dict)
    config: str = ""


def model_card(settings: Settings, *, dim: int, base: str, origin: Origin) -> str:
    """Return the card of a model without figures, as Markdown.

    Args:
        settings: The settings saved with the model.
        dim: The size of an embedding.
        base: The folder or hub name of the model that it was made from.
        origin: How the model was made.
    """
    tags = ["sentence-transformers", "dense-retrieval", "dpr", "dpr_lightning"]
    header = ["library_name: sentence-transformers", "pipeline_tag: sentence-similarity", f"tags: [{', '.join(tags)}]"]
    if _HUB_NAME.fullmatch(base) and not Path(base).exists():
        header.append(f"base_model: {base}")
    kind = "one encoder for queries and passages" if settings.tied else "a query encoder and a passage encoder"
    parts = [
        "\n".join(["---", *header, "---"]),
        "# Dense passage retriever",
        f"{origin.summary} It has {kind}. The score of a query and a passage is the inner product of their embeddings.",
        _table("setting", "value", {"dimensions": dim, **asdict(settings)}),
        "## Use",
        _usage(settings),
        "## Origin",
    ]
    if origin.data:
        parts.append(_table("data", "content", origin.data))
    parts.append(_table("made with", "", {"command": shlex.join(sys.argv), **_made_with()}))
    if origin.config:
        parts.append(f"The settings of the training:\n\n```yaml\n{origin.config.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def with_figures(card: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a card with a section of figures, in place of an earlier one.

    Args:
        card: A card with or without figures.
        figures: The content of `metrics.json` by split; without any, the card has no such section.
    """
    rows = []
    for split, metrics in figures.items():
        for name, values, intervals, questions in (
            ("answer accuracy", metrics.get("accuracy", {}), metrics.get("interval", {}), metrics["questions"]),
            ("", metrics.get("qrels", {}), metrics.get("qrels_interval", {}), metrics.get("judged")),
        ):
            for key, value in values.items():
                measure = f"{name}@{key}" if name else key
                interval = intervals.get(key)
                between = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
                rows.append(f"| {split} | {measure} | {value:.3f} | {between} | {questions:,} |")
    plain = card.partition(_FIGURES)[0]
    if not rows:
        return plain
    heading = "| split | measure | value | 95 % interval | questions |\n|---|---|---|---|---|"
    return f"{plain}{_FIGURES}\n{heading}\n" + "\n".join(rows) + "\n"


def _usage(settings: Settings) -> str:
    title = "a sentence pair of title and text" if settings.separator == "pair" else "title, separator and text"
    return f"""A passage is embedded as {title} (`separator` above). With sentence-transformers 6:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH_OR_NAME")
queries = model.encode_query(["who wrote the origin of species"])
passages = model.encode_document(["On the Origin of Species is a work by Charles Darwin."])
scores = queries @ passages.T
```

With dpr_lightning, the folder is the value of `model_dir`, or of `model.name_or_path` to train it further:

```bash
python encode.py model_dir=PATH data=files data.corpus=my/corpus.jsonl run_dir=runs/mine
```"""


def _made_with() -> dict[str, str]:
    """Return versions of the libraries, and the commit of this program if it runs from a checkout."""
    installed, own = versions(), commit()
    found = {"python": platform.python_version(), **{name: installed[name] for name in _LIBRARIES if name in installed}}
    return found | ({"commit": own["commit"] + (" (changed)" if own["dirty"] else "")} if own["commit"] else {})


def _table(first: str, second: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|"]
    for name, value in rows.items():
        text = str(value).replace("|", "\\|").replace("\n", " ").replace("`", "'")
        lines.append(f"| {name} | `{text}` |" if text else f"| {name} | |")
    return "\n".join(lines)
