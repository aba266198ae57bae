"""Fetch and convert what the commands of an experiment read."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dpr_lightning.config import Config
from dpr_lightning.data.readers import find_files
from dpr_lightning.launch import command, explicit_keys
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of all paths of data."""
    for key in _data_keys(config):
        yield partial(find_files, config[key], name=key, hub="skip")


def add_plan(config: Config, plan: Plan) -> None:
    """Add the rows of all data files to a plan."""
    from dpr_lightning.data.plan import count_rows

    kinds = {"data.train": "training", "data.dev": "training", "data.corpus": "corpus"}
    for key in _data_keys(config):
        of_kind = {"corpus": "data.corpus", "queries": f"data.queries.{key.rpartition('.')[2]}"}
        texts = {kind: (name, config[name]) for kind, name in of_kind.items()}
        kind = kinds.get(key, "queries")
        config.call(count_rows, "data", plan=plan, files=config[key], kind=kind, name=key, texts=texts)


def _data_keys(config: Config) -> list[str]:
    """Return the keys of data that name files."""
    keys = ("data.train", "data.dev", "data.corpus", f"data.queries.{config['split']}")
    return [key for key in keys if config[key]]


@command(checks=checks, plan=add_plan)
def prepare(config: Config) -> str:
    """Fetch the model, unless the run has trained one, and open all data files once."""
    from dpr_lightning.data.datamodule import RetrievalDataModule
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.evaluation.qrels import read_qrels
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings

    run, split, prepared = RunDir(Path(config["run_dir"])), config["split"], []
    if config["data.train"] and not run.is_trained:
        settings = config.call(Settings, "model")
        bi_encoder = config.call(load_bi_encoder, "model", settings=settings, explicit=explicit_keys("model"))
        data = config.call(RetrievalDataModule, "data", "", inputs=bi_encoder.inputs)
        prepared = [f"data.{name}: {rows:,} rows" for name, (rows, _) in data.fingerprints.items()]
    for key, open_source in (("data.corpus", open_corpus), (f"data.queries.{split}", open_queries)):
        if config[key]:
            source = config.call(open_source, "data", keys={"files": key}, name=key)
            prepared.append(f"{key}: {len(source.rows):,} rows")
    if qrels := config[f"data.qrels.{split}"]:
        prepared.append(f"data.qrels.{split}: {len(read_qrels(qrels)):,} questions")
    return "; ".join(prepared) or "nothing to prepare: no key of data names a file"


if __name__ == "__main__":
    prepare()
