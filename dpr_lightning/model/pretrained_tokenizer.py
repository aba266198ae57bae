"""Loads tokenizers from folders or from the hub, and gives them what a decoder's tokenizer may lack."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dpr_lightning.errors import UserError
from dpr_lightning.model.pretrained import errors_about

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_PROBE = "a b?\u65e5"  # words and a character that a vocabulary may lack
_log = logging.getLogger(__name__)


def load_tokenizer(name_or_path: str, folders: Sequence[Path]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a hub name, or of the first of `folders` that has one.

    Raises:
        UserError: No tokenizer exists (transformers would invent one), or it is damaged.
    """
    if any(folder.is_dir() for folder in folders):
        with_vocabulary = [folder for folder in folders if any(any(folder.glob(name)) for name in _VOCABULARIES)]
        if not with_vocabulary:
            raise UserError(f"name_or_path: {name_or_path} has no tokenizer. Copy that of its base model into it.")
        name_or_path = str(with_vocabulary[0])
    with errors_about(name_or_path, "tokenizer.json and tokenizer_config.json"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        length = tokenizer.num_special_tokens_to_add() + 1
        tokenizer(_PROBE, truncation=True, max_length=length)  # nonsense shows in use
        tokenizer(_PROBE)  # without truncation, which would be saved with the tokenizer
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token does
    return tokenizer


def append_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer end every text with its end token, if it has one and does not do so already.

    The post-processor is saved with the tokenizer, so that other libraries do the same.

    Raises:
        UserError: The tokenizer has no post-processor to change.
    """
    full, plain = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    end, backend = tokenizer.eos_token_id, getattr(tokenizer, "backend_tokenizer", None)
    if end is None or full[-1] == end:
        return
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), None)
    if backend is None or start is None:
        kind = type(tokenizer).__name__
        raise UserError(f"name_or_path: {kind} cannot be made to end texts with {tokenizer.eos_token}. Use another.")
    before, after = full[:start], [*full[start + len(plain) :], end]
    names = tokenizer.convert_ids_to_tokens(before + after)
    first, second = (
        [f"{part}:{segment}" for part in (*names[:start], text, *names[start:])]
        for segment, text in enumerate(("$A", "$B"))
    )
    special = list(dict(zip(names, before + after, strict=True)).items())
    backend.post_processor = TemplateProcessing(single=first, pair=first + second, special_tokens=special)
    _log.info("%s: every text now ends with %s", tokenizer.name_or_path, tokenizer.eos_token)
