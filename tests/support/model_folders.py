"""Folders with tiny random models of several kinds."""

import torch
from support.world import WORDS
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

POSITIONS = 40  # of which RoBERTa uses all but two
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_DISTILBERT_SIZES = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}


def save_tokenizer(folder, **options):
    """A word-piece tokenizer whose padding token has id 1, as RoBERTa's."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_transformer(folder, kind="bert", *, seed=0):
    """Config and weights of a transformer; BERT and RoBERTa with a pooler, which DistilBERT hasn't."""
    common = {"vocab_size": 5 + len(WORDS), "max_position_embeddings": POSITIONS, "pad_token_id": 1}
    torch.manual_seed(seed)
    if kind == "distilbert":
        model = DistilBertModel(DistilBertConfig(**common, **_DISTILBERT_SIZES))
    elif kind == "roberta":
        model = RobertaModel(RobertaConfig(**common, **_SIZES))
    else:
        model = BertModel(BertConfig(**common, **_SIZES))
    model.save_pretrained(folder)
    return model


def save_model(folder, kind="bert", *, seed=0, **options):
    """Transformer and tokenizer."""
    save_tokenizer(folder, **options)
    save_transformer(folder, kind, seed=seed)
    return folder


def queries(inputs, texts):
    """The batch of queries for an encoder."""
    return inputs.pad(inputs.encode_queries(texts))


def passages(inputs, texts):
    """The batch of passages without titles for an encoder."""
    return inputs.pad(inputs.encode_passages([""] * len(texts), texts))
