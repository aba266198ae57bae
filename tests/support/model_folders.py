"""Folders with tiny random models of several kinds."""

from dataclasses import fields

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

from dpr_lightning.data.tokenizer import InputTokenizer
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.settings import Settings

POSITIONS = 40  # RoBERTa uses all but two of them
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_DISTILBERT_SIZES = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}


def save_tokenizer(folder, **options):
    """Save a word-piece tokenizer whose padding token has the id 1, as in RoBERTa."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_transformer(folder, kind="bert", *, seed=0):
    """Save config and weights of a transformer; BERT and RoBERTa have a pooler, DistilBERT does not."""
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
    """Save transformer and tokenizer."""
    save_tokenizer(folder, **options)
    save_transformer(folder, kind, seed=seed)
    return folder


def load_model(folder, **arguments):
    """Load a bi-encoder; settings are keyword arguments beside those of `load_bi_encoder`."""
    settings = {field.name: arguments.pop(field.name) for field in fields(Settings) if field.name in arguments}
    return load_bi_encoder(folder, settings=Settings(**settings), **arguments)


def input_tokenizer(tokenizer, **changes):
    """Return an input tokenizer with default settings, except for `changes`."""
    names = ("query_max_length", "passage_max_length", "separator")
    return InputTokenizer(tokenizer, **{name: getattr(Settings, name) for name in names} | changes)


def queries(inputs, texts):
    """Return a batch of queries for an encoder."""
    return inputs.pad(inputs.encode_queries(texts))


def passages(inputs, texts):
    """Return a batch of passages without titles for an encoder."""
    return inputs.pad(inputs.encode_passages([""] * len(texts), texts))
