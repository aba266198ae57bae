"""One transformer that turns token ids into embeddings.

Notation: N sequences, L positions of the longest, H hidden units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from dpr_lightning.errors import UserError
from dpr_lightning.files import write_json
from dpr_lightning.model.pooling import POOLING
from dpr_lightning.model.pretrained import in_one_line
from dpr_lightning.model.settings import Settings

PROJECTION_FOLDER = "2_Dense"  # sentence-transformers' Dense module has this folder and these files


class Encoder(nn.Module):
    """A transformer without its own pooler, then pooling, an optional linear projection and an optional L2 norm."""

    def __init__(self, transformer: PreTrainedModel, settings: Settings) -> None:
        """Remove the transformer's own pooler, whose weights would never get a gradient.

        Args:
            transformer: Its output has a `last_hidden_state`.
            settings: Pooling, projection and normalization are taken from here.
        """
        super().__init__()
        if getattr(transformer, "pooler", None) is not None:
            transformer.pooler = None  # type: ignore[assignment]
        self.transformer, self.pooling, self.normalize = transformer, settings.pooling, settings.normalize
        self.projection: nn.Linear | None = None
        if settings.projection_dim is not None:
            size = transformer.config.hidden_size, settings.projection_dim
            self.projection = nn.Linear(*size, dtype=transformer.dtype)
        causal = any(getattr(module, "is_causal", False) for module in transformer.modules())
        self._options: dict[str, Any] = {"use_cache": False} if causal else {}  # nothing is generated

    @property
    def dim(self) -> int:
        """The size of an embedding."""
        return self.projection.out_features if self.projection else int(self.transformer.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return embeddings [N, dim] of token ids and mask, both [N, L]."""
        return self.project(self.pool(input_ids, attention_mask))

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return pooled hidden states [N, H] of token ids and mask, both [N, L]."""
        output = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **self._options)
        return POOLING[self.pooling].padded(output.last_hidden_state, attention_mask)

    def project(self, pooled: Tensor) -> Tensor:
        """Return embeddings [N, dim] of pooled hidden states [N, H]: projected and normalized, as the settings say."""
        if self.projection is not None:
            pooled = self.projection(pooled)
        embeddings: Tensor = functional.normalize(pooled.float(), dim=-1) if self.normalize else pooled
        return embeddings

    def save_projection(self, folder: Path) -> None:
        """Write the projection, if the encoder has one, into a model folder."""
        if self.projection is not None:
            (folder / PROJECTION_FOLDER).mkdir()
            size = {
                "in_features": self.projection.in_features,
                "out_features": self.projection.out_features,
                "bias": True,
            }
            activation = {"activation_function": "torch.nn.modules.linear.Identity"}
            write_json(folder / PROJECTION_FOLDER / "config.json", size | activation)
            weights = {f"linear.{name}": weight for name, weight in self.projection.state_dict().items()}
            save_file(weights, folder / PROJECTION_FOLDER / "model.safetensors")

    def load_projection(self, folder: Path, *, bias: bool, required: bool) -> None:
        """Read the projection from the folder of a Dense module; without a file it keeps its random weights.

        Args:
            folder: The folder of the module.
            bias: Whether the module has a bias; otherwise the projection's is 0.
            required: Whether weights must exist.

        Raises:
            UserError: The file is damaged, has other sizes, or is missing although it is `required`.
        """
        file = folder / "model.safetensors"
        if self.projection is None or not (required or file.exists()):
            return
        try:
            weights = {name.removeprefix("linear."): weight for name, weight in load_file(file).items()}
            if not bias:
                weights.setdefault("bias", torch.zeros(self.projection.out_features))
            self.projection.load_state_dict(weights)
        except (OSError, RuntimeError, SafetensorError) as error:
            size = f"{self.projection.in_features} x {self.projection.out_features}"
            raise UserError(
                f"projection_dim: {file} does not give a projection of {size} ({in_one_line(error)}). "
                "Correct `projection_dim`, or fetch the model again."
            ) from error


def position_ids(transformer: PreTrainedModel) -> range | None:
    """Return the position ids that tokens may have, starting with that of the first token; None without such ids."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa starts after the padding
            return range(reserved, module.num_embeddings)
    return None
