"""Every supported family trains, and its exported folder embeds alike in sentence-transformers."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.families import DECODERS, FAMILIES, save_family
from support.model_folders import load_model, passages, queries
from support.world import WORDS

from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.training.losses.in_batch import contrastive_loss

TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(20)]


def embed(bi_encoder):
    """Return the embeddings of the texts as queries and as passages."""
    bi_encoder.eval()
    with torch.no_grad():
        return bi_encoder(queries(bi_encoder.inputs, TEXTS), passages(bi_encoder.inputs, TEXTS))


def train_one_step(bi_encoder):
    """Update all weights once, and check that each has a gradient."""
    bi_encoder.train()
    optimizer = torch.optim.AdamW(bi_encoder.parameters(), lr=1e-2)
    embeddings = bi_encoder(queries(bi_encoder.inputs, TEXTS), passages(bi_encoder.inputs, TEXTS))
    contrastive_loss(*embeddings, torch.arange(len(TEXTS)), temperature=1.0, excluded=None).backward()
    assert [name for name, weight in bi_encoder.named_parameters() if weight.grad is None] == []
    optimizer.step()


def largest_difference(folder, ours):
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    both = (theirs.encode_query(TEXTS), theirs.encode_document(TEXTS))
    return max(float(abs(torch.from_numpy(a) - b.float()).max()) for a, b in zip(both, ours, strict=True))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_trained_model_embeds_alike_in_sentence_transformers(tmp_path, kind):
    tied = FAMILIES.index(kind) % 2 == 0
    bi_encoder = load_model(
        save_family(tmp_path / "base", kind),
        tied=tied,
        pooling="last" if kind in DECODERS else ["cls", "mean"][FAMILIES.index(kind) % 3 == 0],
        query_max_length=14,
        passage_max_length=30,
        query_prompt="bap: ",
        passage_prompt="bar ",
    )
    before = embed(bi_encoder)
    train_one_step(bi_encoder)
    ours = embed(bi_encoder)
    assert (ours[0] - before[0]).abs().max() > 0.01 < ours[0].std(0).min()
    save_bi_encoder(bi_encoder, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert (again.fingerprint(), again.settings) == (bi_encoder.fingerprint(), bi_encoder.settings)
    difference = largest_difference(tmp_path / "model", ours)
    print(f"\n{kind}: {difference:.1e}")
    assert difference < 1e-5
