"""Judged passages: TREC qrels files, and the ir-measures that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import ir_measures
from ir_measures import RR, Success, nDCG

from dpr_lightning.errors import UserError

Qrels = dict[str, dict[str, int]]  # {qid: {docid: relevance}}


def read_qrels(path: Path) -> Qrels:
    """The judgments of a file of lines `qid 0 docid relevance`.

    Raises:
        UserError: no such file, no lines, a line of another form; the message names file and line.
    """
    if not path.is_file():
        raise UserError(f"data.qrels: there is no file {path}. Correct the path.")
    qrels: Qrels = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                qid, _, docid, relevance = line.decode().split()
                qrels.setdefault(qid, {})[docid] = int(relevance)
            except ValueError:
                shown = line.decode(errors="replace").strip()[:60]
                raise UserError(
                    f"{path}, line {number}: {shown!r} is not `qid 0 docid relevance`. Correct it."
                ) from None
    if not qrels:
        raise UserError(f"{path} is empty. Give judgments, or leave data.qrels out.")
    return qrels


def judged_measures(
    qrels: Qrels, rankings: Mapping[str, Sequence[str]], *, qids: Iterable[str], topk: Sequence[int]
) -> dict[str, float]:
    """Success@k for each k, RR and nDCG@10 by ir-measures' names, averaged over the judged ones of `qids`.

    A judged question without a ranking counts 0. Passages keep the order of the ranking, whatever their scores:
    trec_eval would order ties by docid.

    Raises:
        UserError: none of `qids` is judged.
    """
    judged = {qid: qrels[qid] for qid in qids if qid in qrels}
    if not judged:
        raise UserError(f"data.qrels judges none of the questions (but {next(iter(qrels))}). Give those of this split.")
    run = {
        qid: {docid: float(len(docids) - place) for place, docid in enumerate(docids)}
        for qid, docids in rankings.items()
        if qid in judged
    }
    measures = [*(Success @ k for k in topk), RR, nDCG @ 10]
    values = ir_measures.calc_aggregate(measures, judged, run)
    return {str(measure): float(values[measure]) for measure in measures}
