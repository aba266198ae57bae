"""One transformer that turns token ids into embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel

from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.files import write_json

PROJECTION_FOLDER = "2_Dense"  # the name and files are those of sentence-transformers' Dense module


class Encoder(nn.Module):
    """A transformer without its own pooler, then pooling, an optional linear projection and optional L2 norm.

    Shapes: [rows, L] token ids in, [rows, dim] embeddings out.
    """

    def __init__(
        self,
        transformer: PreTrainedModel,
        *,
        pooling: str = "cls",
        normalize: bool = False,
        projection_dim: int | None = None,
    ) -> None:
        """Removes the transformer's pooler, whose weights would never get a gradient.

        Args:
            transformer: gives `last_hidden_state`.
            pooling: `cls` takes the first position, `mean` the average over the positions that are no padding.
            normalize: divide embeddings by their L2 norm.
            projection_dim: outputs of a linear layer after pooling; None leaves it out.
        """
        super().__init__()
        check_choice(pooling, "model.pooling", ["cls", "mean"])
        if getattr(transformer, "pooler", None) is not None:
            transformer.pooler = None  # type: ignore[assignment]
        self.transformer, self.pooling, self.normalize = transformer, pooling, normalize
        self.projection: nn.Linear | None = None
        if projection_dim is not None:
            check_positive(projection_dim, "model.projection_dim")
            self.projection = nn.Linear(transformer.config.hidden_size, projection_dim)

    @property
    def dim(self) -> int:
        """Size of an embedding."""
        return self.projection.out_features if self.projection else int(self.transformer.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings [rows, dim] of token ids and mask, both [rows, L]."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [rows, L, H]
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        return self.project(pooled)

    def project(self, pooled: Tensor) -> Tensor:
        """Embeddings [rows, dim] of pooled hidden states [rows, H]: projection and normalization, if there are any."""
        if self.projection is not None:
            pooled = self.projection(pooled)
        embeddings: Tensor = functional.normalize(pooled.float(), dim=-1) if self.normalize else pooled
        return embeddings

    def save_projection(self, folder: Path) -> None:
        """Writes the projection, if there is one, below a model folder."""
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

    def load_projection(self, folder: Path, *, required: bool) -> None:
        """Reads the projection from below a model folder; where the folder has none, it stays as it was made.

        Raises:
            UserError: the file is damaged, of other sizes, or missing though `required`.
        """
        file = folder / PROJECTION_FOLDER / "model.safetensors"
        if self.projection is None or not (required or file.exists()):
            return
        try:
            weights = {name.removeprefix("linear."): weight for name, weight in load_file(file).items()}
            self.projection.load_state_dict(weights)
        except (OSError, RuntimeError, SafetensorError) as error:
            size = f"{self.projection.in_features} x {self.projection.out_features}"
            raise UserError(
                f"model.projection_dim: {file} does not give a projection of {size} ({in_one_line(error)}). "
                "Correct model.projection_dim, or fetch the model again."
            ) from error


def positions(transformer: PreTrainedModel) -> range | None:
    """The position ids that tokens may have, the first token's first; None if positions are relative."""
    for name, module in transformer.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from behind padding
            return range(reserved, module.num_embeddings)
    return None


def load_transformer(name_or_path: str | Path, *, gradient_checkpointing: bool = False) -> PreTrainedModel:
    """A float32 transformer in training mode from safetensors in a folder or on the hub.

    Raises:
        UserError: nothing there, a damaged file, or weights other than a pooler's are missing (they would be random).
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        loaded: Any = AutoModel.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(name_or_path).expanduser().is_dir():
            problem, remedy = f"the model in {name_or_path} cannot be loaded", "Fetch or save it again"
        else:
            problem = f"{name_or_path} is no folder with a model, and the hub does not give one"
            remedy = "Correct the name, or give the path of a folder"
        raise UserError(f"model.name_or_path: {problem} ({in_one_line(error)}). {remedy}.") from error
    transformer, info = loaded
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UserError(
            f"model.name_or_path: {name_or_path} lacks the weights {', '.join(missing[:5])}. Fetch the model again."
        )
    if gradient_checkpointing:
        renamed = hasattr(transformer, "activation_checkpointing_enable")  # in transformers 5.24
        enable = transformer.activation_checkpointing_enable if renamed else transformer.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    transformer.train()
    result: PreTrainedModel = transformer
    return result


def in_one_line(error: Exception) -> str:
    """Another library's message, to stand in brackets within ours."""
    return " ".join(str(error).split()).rstrip(".")
