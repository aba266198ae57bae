"""Load models of the original DPR: its checkpoints, and its encoders as transformers publishes them.

A checkpoint (`.cp`) is a pickled dictionary. `model_dict` has the weights of both encoders under the prefixes
`question_model.` and `ctx_model.`; `encoder_params` tells the base model. Transformers' form is two folders, a
DPRQuestionEncoder and a DPRContextEncoder. Either becomes an untied model: CLS pooling, 256 tokens on both sides, title
and text as a sentence pair.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import AutoConfig, BertConfig, BertTokenizer, DPRConfig, PretrainedConfig, PreTrainedTokenizerBase

from dpr_lightning.data.segments import PAIR
from dpr_lightning.errors import UserError
from dpr_lightning.interop.weights import errors_of, read_pickle, read_weights, write_weights
from dpr_lightning.model.bi_encoder import PASSAGE_FOLDER, QUERY_FOLDER, BiEncoder, load_bi_encoder
from dpr_lightning.model.encoder import PROJECTION_FOLDER
from dpr_lightning.model.pretrained import errors_about
from dpr_lightning.model.pretrained_tokenizer import load_tokenizer
from dpr_lightning.model.settings import Settings

_LENGTH = 256
_FOLDERS = {"question": QUERY_FOLDER, "ctx": PASSAGE_FOLDER}
_UNUSED = re.compile(r"pooler\.|embeddings\.position_ids$")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class _Encoder(NamedTuple):
    config: PretrainedConfig
    weights: dict[str, Tensor]


class _Node:
    """Replaces omegaconf's classes in a checkpoint; only its attributes are read."""

    def __init__(self, *_: object) -> None:
        """Accept any arguments."""


_OMEGACONF = (
    *(f"base.{name}" for name in ("ContainerMetadata", "Metadata")),
    *(f"nodes.{name}Node" for name in ("Any", "String", "Integer", "Float", "Boolean")),
    *("dictconfig.DictConfig", "listconfig.ListConfig"),
)
_ALLOWED = [
    *((_Node, f"omegaconf.{name}") for name in _OMEGACONF),
    *((_Node, name) for name in ("typing.Any", *(f"builtins.{kind}" for kind in ("dict", "list", "int", "str")))),
    (lambda *_: {}, "collections.defaultdict"),
]


def load_fair_checkpoint(file: Path, *, base: str | None = None, **settings: Any) -> BiEncoder:
    """Return the bi-encoder of a checkpoint.

    Args:
        file: The checkpoint.
        base: Folder or hub name of the base model, for its config and tokenizer; None means the checkpoint's own.
        settings: Values of `Settings` other than those of the original DPR.

    Raises:
        UserError: The file is not such a checkpoint, or its base model cannot be loaded or is of another kind.
    """
    state = read_pickle(file, _ALLOWED)
    weights = state.get("model_dict") if isinstance(state, dict) else None
    weights = weights if isinstance(weights, dict) else {}
    if not all(any(str(name).startswith(f"{side}_model.") for name in weights) for side in _FOLDERS):
        raise UserError(f"{file} is not a checkpoint of DPR: it has no `model_dict` with question_model and ctx_model.")
    base = base or dict(_values(state.get("encoder_params"))).get("pretrained_model_cfg")
    if not isinstance(base, str):
        raise UserError(f"{file} does not tell its base model. Give --base, such as bert-base-uncased.")
    with errors_of(Path(base), f"base model {base}"):
        tokenizer = load_tokenizer(base, [Path(base)])
        with errors_about(base, "config.json"):
            config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    encoders = {side: _Encoder(config, _with_prefix(weights, f"{side}_model.")) for side in _FOLDERS}
    return _bi_encoder(encoders, tokenizer, f"{file} (base model {base})", settings)


def load_dpr_folders(first: str, second: str, **settings: Any) -> BiEncoder:
    """Return the bi-encoder of a DPRQuestionEncoder and a DPRContextEncoder.

    Args:
        first: Folder or hub name of one encoder.
        second: Folder or hub name of the other.
        settings: Values of `Settings` other than those of the original DPR.

    Raises:
        UserError: A folder has another model, or both have the same side's.
    """
    encoders, folders = {}, {}
    for name in (first, second):
        folder = _local_folder(name)
        with errors_about(str(folder), "config.json"):
            config = DPRConfig.from_pretrained(folder)
        file = next((folder / name for name in _WEIGHTS if (folder / name).exists()), folder / _WEIGHTS[0])
        if not file.exists():
            raise UserError(f"{name} is not a DPR encoder with {' or '.join(_WEIGHTS)}. Give one, or fetch it again.")
        weights = read_weights(file)
        side = next((side for side in _FOLDERS if any(key.startswith(f"{side}_encoder.") for key in weights)), None)
        if side is None:
            raise UserError(f"{name} is neither a DPRQuestionEncoder nor a DPRContextEncoder. Give one of each.")
        own = _with_prefix(weights, f"{side}_encoder.")
        renamed = {name.removeprefix("bert_model."): weight for name, weight in own.items()}
        encoders[side], folders[side] = _Encoder(_as_bert(config), renamed), folder
    if len(encoders) < len(_FOLDERS):
        raise UserError(f"{first} and {second} are encoders of the same side. Give question and context encoder.")
    with errors_about(str(folders["question"]), "tokenizer.json and vocab.txt"):
        tokenizer = BertTokenizer.from_pretrained(folders["question"])
    return _bi_encoder(encoders, tokenizer, f"{first} and {second}", settings)


def _bi_encoder(
    encoders: Mapping[str, _Encoder], tokenizer: PreTrainedTokenizerBase, source: str, settings: Mapping[str, Any]
) -> BiEncoder:
    """Write the encoders as an untied folder and load it, which checks all that loading checks."""
    sizes = set()
    with tempfile.TemporaryDirectory() as scratch, errors_of(Path(scratch), source):
        tokenizer.save_pretrained(scratch)
        for side, encoder in encoders.items():
            folder = Path(scratch, _FOLDERS[side])
            encoder.config.save_pretrained(folder)
            projection = _with_prefix(encoder.weights, "encode_proj.")
            sizes.add(len(projection["weight"]) if "weight" in projection else None)
            if projection:
                (folder / PROJECTION_FOLDER).mkdir()
                renamed = {f"linear.{name}": weight.float() for name, weight in projection.items()}
                write_weights(renamed, folder / PROJECTION_FOLDER / "model.safetensors")
            kept = {
                name: weight
                for name, weight in encoder.weights.items()
                if not (_UNUSED.search(name) or name.startswith("encode_proj."))
            }
            write_weights(kept, folder / "model.safetensors")
        if len(sizes) > 1:
            raise UserError(f"{source}: the projections of the two sides have different sizes. Give one training's.")
        own = {"query_max_length": _LENGTH, "passage_max_length": _LENGTH, "separator": PAIR}
        values = {**own, **settings, "tied": False, "projection_dim": sizes.pop()}
        return load_bi_encoder(scratch, settings=Settings(**values), new_projection=False)


def _with_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _as_bert(config: DPRConfig) -> BertConfig:
    """Return the config of the BERT in a DPR encoder."""
    names = BertConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    return BertConfig(**{name: value for name, value in config.to_dict().items() if name in names})


def _values(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values in a nested dictionary. Some parts may be nodes of omegaconf."""
    if isinstance(node, _Node):
        node = node.__dict__.get("_content")
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, _Node) and "_val" in value.__dict__:
            value = value.__dict__["_val"]
        yield str(name), value
        yield from _values(value)


def _local_folder(name: str) -> Path:
    """Return a folder, or the folder into which a hub name's config, tokenizer and weights are fetched."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with errors_about(name, "the hub"):
        files = ["config.json", "tokenizer*", "vocab.txt", "special_tokens_map.json", *_WEIGHTS]
        return Path(snapshot_download(name, allow_patterns=files))
