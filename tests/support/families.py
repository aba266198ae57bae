"""Folders with tiny random models of many families, each with a tokenizer of its kind."""

import torch
from support.model_folders import save_tokenizer
from support.world import WORDS
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoConfig,
    AutoModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    LlamaTokenizer,
    Qwen2Tokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

_DPR = {"dpr-question": DPRQuestionEncoder, "dpr-context": DPRContextEncoder}
_SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 80,
    "pad_token_id": 1,
    "initializer_range": 0.2,
}
_OWN_SIZES = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "deberta-v2": {
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_buckets": 8,
        "type_vocab_size": 0,
    },
    "modernbert": {"local_attention": 8, **dict.fromkeys(("bos_token_id", "cls_token_id"), 0), "eos_token_id": 2},
    "albert": {"embedding_size": 8},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "initializer_factor": 2.0},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": None},
    "llama": {"num_key_value_heads": 1, "pad_token_id": None},
}
DECODERS = ("qwen3", "llama")
FAMILIES = (
    *("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "deberta-v2", "modernbert", "albert", "t5"),
    *DECODERS,
    *_DPR,
)


def save_family(folder, kind, *, seed=0):
    """Save a tiny model of a family; the tokenizers of decoders append no end token, Llama's has no padding token."""
    torch.manual_seed(seed)
    if kind in _DPR:
        model = _DPR[kind](DPRConfig(**_SIZES))
    else:
        config = AutoConfig.for_model(kind, **(_SIZES | _OWN_SIZES.get(kind, {})))
        model = T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)
    model.save_pretrained(folder)
    pieces = [(f"▁{word}", -1.0) for word in WORDS]
    if kind == "qwen3":
        vocabulary = {byte: number for number, byte in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
        Qwen2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    elif kind == "llama":
        vocabulary = {
            token: number for number, token in enumerate(["<unk>", "<s>", "</s>", "▁", *"abdefgiklmnoprstuvz"])
        }
        LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True).save_pretrained(folder)
    elif kind == "t5":
        T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *pieces], extra_ids=0).save_pretrained(
            folder
        )
    else:
        save_tokenizer(folder)
    return folder
