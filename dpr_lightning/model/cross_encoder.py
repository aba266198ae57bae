"""A cross-encoder: a transformer that reads question and passage together and gives one score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from dpr_lightning.errors import UserError
from dpr_lightning.model.folder import check_hub
from dpr_lightning.model.pretrained import errors_about
from dpr_lightning.model.pretrained_tokenizer import load_tokenizer


class CrossEncoder:
    """Scores passages for a question with a sequence classification model of transformers that has one output.

    The model runs on a GPU if there is one, and in float32, because half precision rounds scores as coarsely as the
    margins between them. A passage is title and text; a pair is cut to the model's length. Scores are the raw output.
    """

    def __init__(self, name_or_path: str, *, batch_size: int = 32) -> None:
        """Load model and tokenizer.

        Args:
            name_or_path: A folder or a hub name.
            batch_size: Passages scored at once.

        Raises:
            UserError: The model cannot be loaded, lacks weights, or does not have exactly one output.
        """
        check_hub(name_or_path)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with errors_about(name_or_path, "config.json and model.safetensors"):
            config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
            if config.num_labels != 1:
                raise UserError(
                    f"name_or_path: {name_or_path} has {config.num_labels} outputs. "
                    "Choose a cross-encoder, which has one output, the score."
                )
            model: PreTrainedModel
            model, info = AutoModelForSequenceClassification.from_pretrained(
                name_or_path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        if missing := sorted(info["missing_keys"]):
            raise UserError(
                f"name_or_path: {name_or_path} is not a trained cross-encoder: it lacks the weights "
                f"{', '.join(missing[:5])}. Choose another model."
            )
        self._name, self._batch_size = name_or_path, batch_size
        self._model = model.eval().to(self._device)
        self._tokenizer = load_tokenizer(name_or_path, [Path(name_or_path)])
        positions = getattr(config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._max_length = min(positions, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def score(self, query: str, passages: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return the score of each passage for the question, computed in batches of passages of similar length.

        Raises:
            UserError: A score is not finite.
        """
        texts = [f"{passage['title']} {passage['text']}".strip() for passage in passages]
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        scores = [0.0] * len(texts)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            inputs = self._tokenizer(
                [query] * len(batch),
                [texts[number] for number in batch],
                truncation="longest_first",
                max_length=self._max_length,
                padding=True,
                return_tensors="pt",
            )
            logits = self._model(**inputs.to(self._device)).logits.squeeze(-1).float()
            if not logits.isfinite().all():
                raise UserError(f"name_or_path: {self._name} gives scores that are not finite. Choose another model.")
            for number, score in zip(batch, logits.tolist(), strict=True):
                scores[number] = score
        return scores
