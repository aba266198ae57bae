"""The distillation loss against plain loops, and the scores that it needs."""

import math

import pytest
import torch
from support.metrics import logged
from support.world import training_row, write_jsonl

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.training.losses.distillation import DistillationLoss
from dpr_lightning.training.losses.in_batch import InBatchLoss

TEACHER = [[3.0, 1.0, 2.0], [5.0, math.nan, 4.5], [math.nan, 1.0, 2.0], [math.nan] * 3]


def softmax(values):
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def naive(student, teacher, distance, temperature):
    kept = [j for j in range(3) if not math.isnan(teacher[j])]
    if 0 not in kept or len(kept) == 1:
        return 0.0
    if distance == "margin_mse":
        margins = [(student[0] - student[j] - teacher[0] + teacher[j]) ** 2 for j in kept[1:]]
        return sum(margins) / len(margins)
    ours, theirs = (softmax([scores[j] / temperature for j in kept]) for scores in (student, teacher))
    return sum(p * math.log(p / q) for p, q in zip(theirs, ours, strict=True))


def scored_batch():
    """Return embeddings of 4 questions and 3 passages each, and their batch."""
    torch.manual_seed(0)
    queries, passages, scores = torch.randn(4, 5, requires_grad=True), torch.randn(12, 5), torch.tensor(TEACHER)
    targets = torch.arange(4) * 3
    return queries, passages, Batch({}, {}, targets, torch.arange(12), targets[:, None], scores.flatten())


@pytest.mark.parametrize("distance", ["margin_mse", "kl"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_adds_the_weighted_distance_from_the_teacher(distance, temperature):
    queries, passages, batch = scored_batch()
    loss = DistillationLoss(weight=0.3, distance=distance, temperature=temperature)(queries, passages, batch)
    student = [[float(queries[i].detach() @ passages[3 * i + j]) for j in range(3)] for i in range(4)]
    distances = [naive(s, t, distance, temperature) for s, t in zip(student, TEACHER, strict=True)]
    in_batch = InBatchLoss(temperature=temperature)(queries, passages, batch).item()
    assert loss.item() == pytest.approx(in_batch + 0.3 * sum(distances) / 4, rel=1e-5)
    loss.backward()
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("distance", ["margin_mse", "kl"])
def test_scores_are_float32_under_autocast(distance):
    expected = DistillationLoss(distance=distance)(*scored_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = DistillationLoss(distance=distance)(*scored_batch())
    assert loss.dtype == torch.float32
    assert loss.equal(expected)


def test_training_with_scores_differs_from_training_without(command, settings, tmp_path):
    scored = [training_row(i) | {"scores": [4.0, 3.0, 2.0, 1.0]} for i in range(16)]
    train = write_jsonl(tmp_path / "scored.jsonl", scored)
    code, _, err = command("train", *settings, f"data.train={train}", "loss=distillation", "loss.weight=1000.0")
    assert code == 0, err
    assert logged(tmp_path / "run", "train/loss")[0] > 100


def test_data_without_scores_is_refused_before_training(command, settings, tmp_path):
    code, _, err = command("train", *settings, "loss=distillation")
    assert code == 1
    assert err.startswith("loss: learns from a teacher's scores, and no row of data.train has scores.")
    assert not (tmp_path / "run" / "train" / "metrics.csv").exists()


def test_an_unknown_distance_is_refused():
    with pytest.raises(UserError, match=r"^distance: 'mse' is not possible"):
        DistillationLoss(distance="mse")
