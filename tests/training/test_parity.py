"""train.py has the loss curve of Tevatron's rules, restated in plain PyTorch."""

import json
import math

import pytest
import torch
from support.metrics import logged
from support.world import training_row, write_jsonl
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BertModel

STEPS, WARMUP, RATE = 30, 3, 1e-3


def restated_losses(folder, rows):
    """Train on all rows in each step with the first positive and negative, padded to full length as in Tevatron."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).train()

    def tokens(texts, length):
        return tokenizer(texts, truncation=True, max_length=length, padding="max_length", return_tensors="pt")

    def embed(batch):
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return hidden[:, 0]

    passages = [p for row in rows for p in (row["positive_passages"][0], row["negative_passages"][0])]
    queries = tokens([row["query"] for row in rows], 5)
    passages = tokens([p["title"] + " " + p["text"] for p in passages], 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        warm, left = step / WARMUP, (STEPS - step) / (STEPS - WARMUP)
        optimizer.param_groups[0]["lr"] = RATE * min(warm, left)
        loss = cross_entropy(embed(queries) @ embed(passages).T, torch.arange(len(rows)) * 2)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses


def test_the_loss_curve_follows_tevatrons_rules(command, settings, no_dropout_model, tmp_path):
    rows = [training_row(i) for i in range(8)]
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    code, _, err = command(
        "train",
        *settings,
        f"data.train={train}",
        "data.dev=null",
        "data.negatives=first",
        f"model.name_or_path={no_dropout_model}",
        "model.query_max_length=5",  # short enough to truncate questions and passages
        "model.passage_max_length=8",
        f"optimizer.lr={RATE}",
        f"trainer.max_steps={STEPS}",
        f"trainer.max_epochs={STEPS}",
    )
    assert code == 0, err
    losses = logged(tmp_path / "run", "train/loss")
    assert math.ceil(0.1 * STEPS) == WARMUP
    expected = restated_losses(no_dropout_model, rows)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0] / 2, "nothing was learned: " + json.dumps(losses)
