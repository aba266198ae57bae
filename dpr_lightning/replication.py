"""The replication of an experiment: which commands run, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.embeddings.shards import resolve_num_shards
from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.files import matching
from dpr_lightning.overrides import overrides_of
from dpr_lightning.run_dir import METHODS, RANKING_ENDINGS, RunDir

SHARD = "shard=$SLURM_ARRAY_TASK_ID"
"""The override, in shell syntax, that selects the shard of an array job."""

_OWN = ("overwrite", "skip_finished", "shard", "side", "model_dir", "run_file")  # overrides that the stages set
_JOBS_FOR_AUTO = 20


class Command(NamedTuple):
    """A command of a replication: its name, and its overrides as a user types them."""

    name: str
    overrides: list[str]


class Job(NamedTuple):
    """Commands that run one after another on one machine, once other jobs have ended.

    Attributes:
        name: The name of the job.
        commands: With an array, each contains the override `SHARD`.
        is_gpu_job: Whether it needs a GPU where the site has some.
        after: By type of dependency (`afterok`, `afterany` or `aftercorr`), the names of jobs.
        array: The shards, for a job per shard; None for one job.
    """

    name: str
    commands: list[Command]
    is_gpu_job: bool = False
    after: Mapping[str, Sequence[str]] = {}
    array: list[int] | None = None


class Replication:
    """All commands from training data to figures. Each keeps finished output and continues unfinished output."""

    def __init__(self, words: Sequence[str], config: Mapping[str, Any], options: Sequence[str] = ()) -> None:
        """Take the overrides of the user.

        Args:
            words: Overrides of any of the commands.
            config: The composed config.
            options: Options of all commands, such as `--config-dir=FOLDER`.

        Raises:
            UserError: An override that the stages set themselves, or a method that does not exist.
        """
        for word in words:
            if (key := word.partition("=")[0].lstrip("+")) in _OWN:
                raise UserError(f"{key}: it differs from stage to stage of a replication. Leave it out.")
        self.words, self.options, self.config = list(words), list(options), config
        if not isinstance(config["run_dir"], str):
            raise UserError(f"run_dir: {config['run_dir']!r} is not text. Correct `run_dir`.")
        check_choice(config["method"], "method", [None, *METHODS])
        check_choice(config["format"], "format", list(RANKING_ENDINGS))
        self.run, self.split, self.method = RunDir(Path(config["run_dir"])), config["split"], config["method"]

    def in_sequence(self) -> list[Command]:
        """Return the commands of one machine, where `search.py` searches all shards at once."""
        search = [self._command("search"), self._command("evaluate")]
        return search if self.method == "bm25" else [self._command("train"), *self._encoding(), *search]

    def as_jobs(self) -> list[Job]:
        """Return the jobs of a cluster that are still to be done.

        The jobs `rest` and `finish` do the work of array jobs that failed.

        Raises:
            UserError: The training leaves its number of processes open.
        """
        prepare = Job("prepare", [Command("prepare", [*self.options, *self.words])])
        if self.method == "bm25":
            return [prepare, Job("finish", self.in_sequence(), after={"afterok": ["prepare"]})]
        num_shards, start = self.num_shards(), "prepare"
        jobs, count = [prepare], f"num_shards={num_shards}"
        if not self.run.is_trained:
            if self.config["trainer"]["devices"] == "auto":
                raise UserError(
                    "trainer.devices: SLURM needs a number of processes, not auto. Set trainer=ddp, gpu or cpu."
                )
            jobs.append(Job("train", [self._command("train")], True, {"afterok": [start]}))
            start = "train"
        shards = range(num_shards)
        to_encode = [n for n in shards if not self.run.passage_shard(n, num_shards).exists()]
        encoding, after = [], {"afterok": [start]}
        if to_encode:
            jobs.append(Job("encode", [self._command("encode", count, SHARD)], True, after, to_encode))
            encoding.append("encode")
        if not self.run.query_embeddings(self.split).exists():
            jobs.append(Job("queries", [self._command("encode", "side=query")], True, after))
            encoding.append("queries")
        ended = {"afterany": encoding} if encoding else {}
        jobs.append(Job("rest", self._encoding(count), bool(encoding), {**after, **ended}))  # checks what exists
        ending = {"afterok": ["rest"]}
        to_search = [n for n in shards if not self.run.shard_ranking(self.split, n, num_shards, self._format).exists()]
        if self._searches_shards and to_search:
            pairwise = to_encode == to_search and "queries" in encoding
            after = {"aftercorr": ["encode"], "afterok": ["queries"]} if pairwise else ending
            jobs.append(Job("search", [self._command("search", count, SHARD)], False, after, to_search))
            ending = {**ending, "afterany": ["search"]}
        return [*jobs, Job("finish", self._ending(count), after=ending)]

    def num_shards(self) -> int:
        """Return the number of shards; for `auto`, that of the run folder, or else 20 jobs."""
        number = self.config["num_shards"]
        if number == "auto" and not matching(self.run.passage_shards, "[0-9]*-of-*.safetensors*"):
            return _JOBS_FOR_AUTO
        return resolve_num_shards(self.run.passage_shards, number)

    @property
    def _format(self) -> str:
        return str(self.config["format"])

    @property
    def _searches_shards(self) -> bool:
        return self.method in (None, "exact") and self.config["index"] is None

    def _encoding(self, *more: str) -> list[Command]:
        return [self._command("encode", *more), self._command("encode", "side=query")]

    def _ending(self, count: str) -> list[Command]:
        if not self._searches_shards:
            return [self._command("search"), self._command("evaluate")]
        return [self._command("search", count, "shard=all"), self._command("reduce"), self._command("evaluate")]

    def _command(self, name: str, *more: str) -> Command:
        own = overrides_of(name, self.words)
        set_here = {word.partition("=")[0] for word in more} | ({"devices"} if more else set())
        own = [word for word in own if word.partition("=")[0] not in set_here]
        return Command(name, [*self.options, *own, *more, "skip_finished=true"])
