"""`RUN/provenance.json`: the commands that make the results of a run again, and what they were computed from and with.

It is compiled from the log folders of the calls that made the model, the embeddings and the rankings, from the
provenance of each ranking and from the metrics of each evaluation. Evaluations that did not come from a command, and
files that other programs made, have no call. Of a part that was made again, the newest call counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dpr_lightning.call_record import Call, command_text, read_call, read_calls
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import METRICS, read_metrics
from dpr_lightning.files import file_hash, matching, write_json
from dpr_lightning.retrieval.provenance import read_provenance
from dpr_lightning.run_dir import TEXT_METHODS, RunDir

_FORMAT = "dpr_lightning.run/1"
_RECORDED = (
    *("started", "host", "slurm_job", "folder"),
    *("commit", "dirty", "python", "versions", "hardware"),
)
_MODEL, _PASSAGES, _QUERIES, _SHARD_RANKING, _RANKING = range(5)  # the order of the work
_Part = tuple[int, str, Any]  # the kind of output, its name, its shard


def write_run_provenance(run: RunDir) -> Path:
    """Write the provenance of everything in a run folder, and return the file.

    The file has `commands`, in the order in which they make the results again; `stages`, with the call of each command:
    settings, seed, versions, machine and seconds; and `fingerprints` of the training data and, by evaluation, of model,
    data, embeddings, ranking and metrics.
    """
    evaluations = dict(_evaluations(run))
    stages = [stage for folder in _run_folders(run, evaluations) for stage in _stages(folder, run)]
    stages += [_stage(run, _evaluation_call(run, metrics), metrics) for metrics in evaluations.values()]
    stages = [stage for stage in stages if stage["command"]]
    content = {
        "format": _FORMAT,
        "commands": [stage["command"] for stage in stages],
        "stages": stages,
        "fingerprints": {
            "training": _training_fingerprints(run),
            "evaluations": {
                name: {**_fingerprints(run, metrics), "metrics": file_hash(run.evaluations / name / METRICS)}
                for name, metrics in evaluations.items()
            },
        },
    }
    write_json(run.provenance, content)
    return run.provenance


def _evaluations(run: RunDir) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the metrics of each evaluation that is intact."""
    for folder in matching(run.evaluations, "*"):
        if not folder.name.startswith("."):  # which another process is writing
            with contextlib.suppress(UserError):
                yield folder.name, read_metrics(folder)


def _run_folders(run: RunDir, evaluations: Mapping[str, Mapping[str, Any]]) -> list[RunDir]:
    """Return the run and, before it, other runs whose model it encoded with or whose ranking it evaluated."""
    encoding = [call for call in read_calls(run.logs) if call.words[0] == "encode" and call.has_succeeded]
    models = [call.settings.get("model_dir") for call in encoding]
    rankings = [_ranking(run, metrics) for metrics in evaluations.values()]
    folders = [Path(model).parent for model in models if model and Path(model).name == "model"]
    folders += [ranking.parent.parent for ranking in rankings if ranking.parent.name == "rankings"]
    others = {folder.resolve(): RunDir(folder) for folder in folders if folder.resolve() != run.path.resolve()}
    return [*others.values(), run]


def _stages(source: RunDir, run: RunDir) -> list[dict[str, Any]]:
    """Return what is known of the calls that made the model, embeddings and rankings of `source`, in order.

    `run` is the run that the provenance is of.
    """
    newest: dict[_Part, Call] = {}
    for call in (*_sweep_calls(source), *read_calls(source.logs)):
        if call.has_succeeded and not call.is_worker and (part := _part(call)):
            if part[0] == _PASSAGES and part[2] is None and call.settings.get("overwrite"):
                newest = {other: one for other, one in newest.items() if other[0] != _PASSAGES}
            newest[part] = call
    reduced = {name for (kind, name, _), call in newest.items() if kind == _RANKING and call.words[0] == "reduce"}
    needed = [part for part in newest if part[0] != _SHARD_RANKING or part[1] in reduced]
    return [_stage(run, newest[part]) for part in sorted(needed, key=lambda part: part[0])]


def _part(call: Call) -> _Part | None:
    """Return which part of a run a call has made; None if it is not a part of its results."""
    name, settings = call.words[0], call.settings
    split, shard = str(settings.get("split")), settings.get("shard")
    if name == "train":
        return _MODEL, "", None
    if name == "encode":
        whole = shard in (None, "all")
        is_query = settings.get("side") == "query"
        return (_QUERIES, split, None) if is_query else (_PASSAGES, "", None if whole else shard)
    if name == "reduce":
        return _RANKING, split, None
    if name == "search":
        if shard is not None:
            return _SHARD_RANKING, split, shard
        method = settings.get("method")
        return _RANKING, f"{split}.{method}" if method in TEXT_METHODS else split, None
    return None


def _sweep_calls(run: RunDir) -> list[Call]:
    """Return the training of a run that was a job of a sweep, whose log is beside the run folder."""
    return [
        call
        for call in read_calls(run.path.resolve().parent / "logs")
        if call.words[0] == "train" and _is_of(call, run)
    ]


def _is_of(call: Call, run: RunDir) -> bool:
    folder = Path(call.record.get("folder", "")) / str(call.settings.get("run_dir"))
    return folder.resolve() == run.path.resolve()


def _evaluation_call(run: RunDir, metrics: Mapping[str, Any]) -> Call:
    """Return the call that has written metrics; an empty one if none is known."""
    log = metrics.get("provenance", {}).get("log")
    return read_call(run.path / log) if log else Call(Path(), {}, {}, False)


def _stage(run: RunDir, call: Call, metrics: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what is known of a call; of one that has not ended yet, the seconds are those in its metrics."""
    own, settings = (metrics or {}).get("provenance", {}), call.settings
    return {
        "stage": call.words[0],
        "command": command_text(call.words) if call.words[0] else None,
        "log": run.relative(call.log),
        "seed": settings.get("seed"),
        "seconds": own.get("seconds", call.end.get("seconds")),
        **{name: call.record.get(name) for name in _RECORDED},
        "settings": settings,
    }


def _ranking(run: RunDir, metrics: Mapping[str, Any]) -> Path:
    """Return the ranking of an evaluation: the run's own of this name and content, also if the run was moved."""
    ranking = Path(metrics.get("run_file", ""))
    own = run.rankings / ranking.name
    return own if own.is_file() and file_hash(own) == metrics.get("run_file_xxh3") else ranking


def _fingerprints(run: RunDir, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprints of what an evaluation has read."""
    ranking, known = _ranking(run, metrics), None
    with contextlib.suppress(UserError, OSError):
        known = read_provenance(ranking)
    return {
        "model": metrics.get("model_fingerprint") or None,
        "corpus": metrics.get("corpus_fingerprint"),
        "queries": metrics.get("queries_fingerprint"),
        "qrels": metrics.get("qrels_fingerprint"),
        "embeddings": known.embeddings if known else None,
        "ranking": {"file": run.relative(ranking), "xxh3": metrics.get("run_file_xxh3")},
    }


def _training_fingerprints(run: RunDir) -> Any:
    """Return the fingerprints of the training data and of the model that the training began with; None if unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError, yaml.YAMLError):
        return yaml.safe_load(run.training_config.read_bytes()).get("fingerprints")
    return None
