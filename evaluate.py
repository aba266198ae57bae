"""Measures how often a ranking holds an answer: python evaluate.py experiment=nq split=test topk=[1,5,20,100]"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, plain


@command
def evaluate(config: DictConfig) -> str:
    """Ranking, questions and corpus text in; metrics, a line per question and a table out."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.evaluation.stage import evaluate
    from dpr_lightning.evaluation.table import print_accuracy

    data = plain(config.data)
    name, skip_invalid = f"queries.{config.split}", config.data.skip_invalid
    qrels = data["qrels"].get(config.split)
    evaluation = evaluate(
        Path(config.run_file),
        open_queries(data["queries"].get(config.split), name=name, skip_invalid=skip_invalid),
        open_corpus(data["corpus"], skip_invalid=skip_invalid),
        Path(config.run_dir) / "evaluation" / config.split,
        qrels_file=Path(str(qrels)) if qrels else None,
        **plain(config.data, "answers", "match_title"),
        **plain(config, "topk", "overwrite"),
    )
    print_accuracy(config.name, evaluation.metrics, data["published"])
    return evaluation.summary


if __name__ == "__main__":
    evaluate()
