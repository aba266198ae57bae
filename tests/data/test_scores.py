"""A teacher's scores are checked and stay with their passages in the batch."""

import math

import pytest
from support.model_folders import input_tokenizer
from support.world import training_row, write_jsonl
from transformers import AutoTokenizer

from dpr_lightning.data.collate import Collator
from dpr_lightning.data.examples import TrainingExamples
from dpr_lightning.data.sources import open_training
from dpr_lightning.errors import UserError


@pytest.mark.parametrize("negatives", ["first", "rotate", "random"])
def test_passages_keep_their_scores_and_filled_ones_have_none(tmp_path, tiny_model, negatives):
    scored = [training_row(i) | {"scores": [i, i + 0.1, i + 0.2, i + 0.3]} for i in range(0, 16, 4)]
    rows = open_training(str(write_jsonl(tmp_path / "a.jsonl", [*scored, training_row(20)]))).rows
    examples = TrainingExamples(rows, passages_per_query=5, negatives=negatives)
    chosen = [examples[1, row] for row in range(5)]
    scores = Collator(input_tokenizer(AutoTokenizer.from_pretrained(tiny_model)))(chosen).scores.view(5, 5)
    for row, example in enumerate(chosen[:4]):
        own = {f"d{4 * row + j}": 4 * row + j / 10 for j in range(4)}
        expected = [own.get(passage["docid"], math.nan) for passage in example.passages]
        assert scores[row].tolist() == pytest.approx(expected, nan_ok=True)
        assert sum(map(math.isnan, expected)) == 1
    assert scores[4].isnan().all()


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        ([1.0, 2.0], "scores is not a list of 4 numbers, one per positive and negative passage."),
        (3.0, "scores is not a list of 4 numbers, one per positive and negative passage."),
        ([1.0, None, 2.0, 3.0], "scores[1] is None, not a finite float32 number."),
        ([1.0, 2.0, True, 3.0], "scores[2] is True, not a finite float32 number."),
        ([1.0, 2.0, 3.0, math.inf], "scores[3] is inf, not a finite float32 number."),
        ([1.0, -1e39, 2.0, 3.0], "scores[1] is -1e+39, not a finite float32 number."),
    ],
)
def test_wrong_scores_are_named_with_file_and_row(tmp_path, scores, problem):
    file = write_jsonl(tmp_path / "bad.jsonl", [training_row(0), training_row(1) | {"scores": scores}])
    with pytest.raises(UserError) as caught:
        open_training(str(file))
    assert str(caught.value).startswith(f'train: {file}, row 2 (query_id "q1"): {problem}')
