"""What a ranking was made from, kept in a JSON file beside it: `test.trec.json` describes `test.trec`.

A ranking without such a file is another program's, and nothing is known about it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dpr_lightning.embeddings.file import Embeddings, open_embeddings
from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.errors import UserError
from dpr_lightning.files import file_hash, matching, values_hash, write_json
from dpr_lightning.run_dir import RANKING_ENDINGS, RunDir

_log = logging.getLogger(__name__)
_FORMAT = "dpr_lightning.ranking/1"
_TAG = "dpr_lightning-"


@dataclass(frozen=True)
class Provenance:
    """What a ranking was made from.

    Attributes:
        model: Fingerprint of the model.
        queries: Fingerprint of the data of the queries.
        passages: Fingerprint of the data of the passages.
        depth: Number of passages per query that are certainly the best; None if every passage was ranked.
        index: FAISS factory string of an approximate index; None for an exact search.
        embeddings: Digest of each embedding file, by its folder and name.
    """

    model: str
    queries: str
    passages: str
    depth: int | None
    index: str | None
    embeddings: dict[str, str]


def describe_search(
    queries: Embeddings, passages: ShardedEmbeddings, *, depth: int, index: str | None = None
) -> Provenance:
    """Return the provenance of a ranking of these passages for these queries."""
    return Provenance(
        model=passages.model_fingerprint,
        queries=queries.identity.data_fingerprint,
        passages=passages.data_fingerprint,
        depth=depth if depth < passages.rows else None,
        index=index,
        embeddings={_name(part.path): part.content_hash for part in (queries, *passages.shards)},
    )


def merged_provenance(rankings: Sequence[Path], *, depth: int) -> Provenance | None:
    """Return the provenance of a ranking merged from those of all shards; None if one of theirs is unknown.

    Raises:
        UserError: The shards were searched with different models, data or indexes, or one has been changed since.
    """
    parts = {file: provenance for file in rankings if (provenance := read_provenance(file, allow_changed=False))}
    if len(parts) < len(rankings):
        return None
    first = parts[rankings[0]]
    for file, part in parts.items():
        for what in ("model", "queries", "passages", "index"):
            if getattr(part, what) != getattr(first, what):
                raise UserError(f"{rankings[0]} and {file} are of different {what}. Search both shards again.")
    depths = [depth, *(part.depth for part in parts.values() if part.depth is not None)]
    embeddings = {name: digest for part in parts.values() for name, digest in part.embeddings.items()}
    return replace(first, depth=min(depths), embeddings=embeddings)


def write_provenance(ranking: Path, provenance: Provenance | None, content: Path | None = None) -> None:
    """Write the provenance of a finished ranking beside it; delete an earlier one if it is unknown (None).

    Args:
        ranking: The ranking.
        provenance: What it was made from.
        content: The file that takes the name `ranking` next: a process that is killed before leaves at most
            a provenance without its ranking.
    """
    if provenance is None:
        provenance_file(ranking).unlink(missing_ok=True)
    else:
        values = {"format": _FORMAT, "xxh3": file_hash(content or ranking), **asdict(provenance)}
        write_json(provenance_file(ranking), values | {"check": values_hash(values)})


def read_provenance(ranking: Path, *, allow_changed: bool = True) -> Provenance | None:
    """Return the provenance of a ranking; None if it is unknown. Warn if the ranking has been changed since.

    Raises:
        UserError: The provenance is damaged, or written by a newer version; or the ranking has been changed since, and
            this is not allowed.
    """
    file = provenance_file(ranking)
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        check = values.pop("check", None)  # earlier versions wrote none
        if check not in (None, values_hash(values)):
            raise ValueError("its checksum differs")
        if values.pop("format") != _FORMAT:
            raise ValueError("another format")
        is_current = values.pop("xxh3") == file_hash(ranking)
        provenance = Provenance(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is damaged, or written by a newer version ({error}). Delete it, or search again."
        ) from error
    if not is_current and not allow_changed:
        raise UserError(
            f"{ranking} is not the file that {file.name} describes: it was damaged or edited. Search this shard again "
            f"with overwrite=true, or delete {file.name} to merge it nevertheless."
        )
    if not is_current:
        _log.warning("%s is not the file that %s describes: nothing is known about its origin", ranking, file.name)
    return provenance if is_current else None


def check_same_search(ranking: Path, expected: Provenance) -> None:
    """Raise UserError unless an existing ranking was made from what `expected` describes."""
    existing = read_provenance(ranking)
    names = [name for name in asdict(expected) if existing and getattr(existing, name) != getattr(expected, name)]
    if existing is None or names:
        how = f"made with different {names[0]}" if names else "made from unknown embeddings"
        raise UserError(
            f"{ranking}, {how}, is finished already. Set overwrite=true to replace it, or choose another run_dir."
        )


def check_against_embeddings(ranking: Path, provenance: Provenance | None, *, tag: str = "") -> None:
    """Check that a ranking in a run folder belongs to the embeddings that are in this folder now.

    Rankings in other places are not checked. If the provenance is unknown, the tag of our TREC runs tells the model.

    Raises:
        UserError: An embedding file has another model or other data; the message names it.
    """
    run, split = RunDir(ranking.parent.parent), ranking.stem
    if ranking not in [run.ranking(split, format) for format in RANKING_ENDINGS]:
        return
    model = provenance.model if provenance else tag.removeprefix(_TAG) if tag.startswith(_TAG) else ""
    changed = []
    for file in (run.query_embeddings(split), *matching(run.passage_shards, "*.safetensors")):
        if not file.is_file():
            continue
        embeddings = open_embeddings(file)
        identity, problem = embeddings.identity, ""
        if not identity.model_fingerprint.startswith(model):
            problem = "another model"
        elif provenance:
            data = provenance.queries if identity.side == "query" else provenance.passages
            problem = "other data" if identity.data_fingerprint != data else ""
            if provenance.embeddings.get(_name(file)) not in (None, embeddings.content_hash):
                changed.append(file)
        if problem:
            raise UserError(
                f"{ranking} was made with {problem} than {file}. Search again, or move the ranking out of the run "
                "folder and set `run_file`."
            )
    if changed:
        _log.warning("%s is older than %s, which was encoded again since", ranking, changed[0])


def provenance_file(ranking: Path) -> Path:
    """Return the path of the file that describes a ranking."""
    return ranking.with_name(f"{ranking.name}.json")


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
