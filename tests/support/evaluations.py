"""Folders of evaluations, written by our own writers from rankings with titles and texts."""

import numpy as np

from dpr_lightning.data.sources import Source
from dpr_lightning.evaluation.accuracy import accuracy_at, first_hit
from dpr_lightning.evaluation.answers import answer_finder
from dpr_lightning.evaluation.output import write_dpr_json, write_metrics, write_questions
from dpr_lightning.retrieval.rankings import Ranking


def write_evaluation(folder, questions, rankings, *, topk=(1, 5, 20), rule="string", relevant=None, **changes):
    """Write an evaluation.

    `questions` are `(qid, question, answers)`, `rankings` lists of `(docid, title, text)` by qid, `relevant` the ranks
    by qid and docid.
    """
    folder.mkdir(parents=True)
    rows = [{"query_id": qid, "query": question, "answers": answers} for qid, question, answers in questions]
    source = Source(rows, "", 0)
    passages = {docid: (title, text) for ranking in rankings.values() for docid, title, text in ranking}
    finders = {qid: answer_finder(answers, rule=rule, qid=qid) for qid, _, answers in questions}
    hits = [[finders[qid](text) for _, _, text in rankings.get(qid, [])] for qid, _, _ in questions]
    first_hits = np.array([first_hit(of_one) for of_one in hits])
    ranked = {
        qid: Ranking(qid, [docid for docid, _, _ in ranking], np.linspace(9, 5, len(ranking)).astype(np.float32))
        for qid, ranking in rankings.items()
    }
    write_questions(folder, source, ranked, first_hits, {} if relevant else None, relevant)
    write_dpr_json(folder, source, ranked, passages, hits)
    accuracy = {str(k): accuracy_at(first_hits, k) for k in topk}
    metrics = {
        "questions": len(rows),
        **dict.fromkeys(("missing", "without_answers", "skipped"), 0),
        "accuracy": {k: one.value for k, one in accuracy.items()},
        "interval": {k: [one.low, one.high] for k, one in accuracy.items()},
        "undecided": {},
        "left_out": {},
        "answers": rule,
        "match_title": False,
        "split": "test",
        "depth": max(map(len, rankings.values())),
    }
    write_metrics(folder, {**metrics, **changes})
    return folder
