"""Reads a sentence-transformers folder: its modules, lengths and prompts.

A folder that asks for anything that cannot be reproduced exactly is refused. The library itself is not needed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import PROJECTION_FOLDER
from dpr_lightning.model.foreign import EncoderFiles, Foreign
from dpr_lightning.model.pooling import POOLING
from dpr_lightning.model.settings import LARGEST

T = TypeVar("T")
Module = tuple[str, Path]  # the type, a dotted name, and the folder
_MODULES = "modules.json"
_KINDS = ["Transformer", "Pooling", "Dense", "Normalize"]  # in this order; the last two are optional
_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING = {mode.exported_as: name for name, mode in POOLING.items()}
_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_ARGUMENTS = [f"{of}_{word}" for of in ("model", "tokenizer", "config", "processor") for word in ("args", "kwargs")]
_HARMLESS = {"trust_remote_code", "attn_implementation", "dtype", "torch_dtype", "padding_side"}
_FROM_HUB = ["*.json", "*.txt", "*.model", "*.safetensors"]
_log = logging.getLogger(__name__)


class _Pipeline(NamedTuple):
    """The modules of one side."""

    files: EncoderFiles
    settings: dict[str, Any]
    max_length: int
    pools_prompt: bool


def describe(name_or_path: str) -> Foreign | None:
    """Return what a sentence-transformers folder or hub model says, or None if it is not one of these.

    A hub model is downloaded.

    Raises:
        UserError: The folder asks for something that cannot be reproduced here, or a file is damaged.
    """
    local = Path(name_or_path)
    folder = local if local.is_dir() else _download(name_or_path)
    if folder is None or not (folder / _MODULES).exists():
        return None
    config = _read(folder / "config_sentence_transformers.json", dict, required=False)
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise _unsupported(folder, f"a model of the kind {kind}")
    modules = [_module(folder, listed) for listed in _read(folder / _MODULES, list)]
    routes: dict[str, list[Module]] = {"query": [], "document": []}
    if modules and _kind(folder, modules[0]) == "Router":
        routes, modules = _routes(folder, modules[0][1]), modules[1:]
    query, passage = (_pipeline(folder, [*routes[task], *modules], task) for task in ("query", "document"))
    if query.settings != passage.settings:
        raise _unsupported(folder, f"a Router with unlike sides ({query.settings}, {passage.settings})")
    if (query.files == passage.files) != (query.files.transformer == passage.files.transformer):
        raise _unsupported(folder, "a Router whose two sides share a Transformer, but not all modules")
    return _foreign(folder, config, query, passage)


def _foreign(folder: Path, config: Mapping[str, Any], query: _Pipeline, passage: _Pipeline) -> Foreign:
    settings = dict(query.settings)
    if query.files != passage.files:
        settings["tied"] = False
    settings |= {"query_max_length": query.max_length, "passage_max_length": passage.max_length}
    if config.get("truncate_dim") is not None:
        cut = f"truncate_dim={config['truncate_dim']!r}, which cuts embeddings after their normalization"
        raise _unsupported(folder, f"{cut} (config_sentence_transformers.json)")
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise _damaged(folder / "config_sentence_transformers.json", f"prompts is {prompts!r}")
    for task, name in (("query", "query_prompt"), ("document", "passage_prompt")):
        if prompts.get(task):
            settings[name] = prompts[task]
    if any(prompts.get(task) for task in ("query", "document")) and not (query.pools_prompt and passage.pools_prompt):
        raise _unsupported(folder, "a Pooling that leaves out the prompt (include_prompt=false)")
    notes = []
    if unused := [name for name in ("passage", "corpus") if prompts.get(name) and not prompts.get("document")]:
        notes.append(f"Its prompt {unused[0]!r} is not used, as encode_document does not use it")
    similarity = config.get("similarity_fn_name")
    if similarity not in (None, "dot") and not settings["normalize"]:
        notes.append(f"Its similarity is {similarity}; here it is the inner product of embeddings without a norm of 1")
    return Foreign(folder, settings, query.files, passage.files, notes)


def _pipeline(folder: Path, modules: Sequence[Module], task: str) -> _Pipeline:
    """Return what one side's modules say; `task` is sentence-transformers' name of the side."""
    kinds = [_kind(folder, module) for module in modules]
    for kind in kinds:
        if kinds.count(kind) > 1:
            paths = [path for (_, path), other in zip(modules, kinds, strict=True) if other == kind]
            names = ", ".join(_name(folder, path) for path in paths)
            raise _unsupported(folder, f"several {kind} modules ({names})")
    if kinds != [kind for kind in _KINDS if kind in kinds] or kinds[:2] != _KINDS[:2]:
        raise _unsupported(folder, f"the modules {', '.join(kinds) or 'none'}, not {', '.join(_KINDS)} in this order")
    parts = dict(zip(kinds, (path for _, path in modules), strict=True))
    pooling, pools_prompt = _pooling(folder, parts["Pooling"])
    settings: dict[str, Any] = {"pooling": pooling, "normalize": "Normalize" in parts}
    files = EncoderFiles(str(parts["Transformer"]), parts["Transformer"] / PROJECTION_FOLDER)
    if "Dense" in parts:
        settings["projection_dim"], bias = _dense(folder, parts["Dense"])
        files = EncoderFiles(str(parts["Transformer"]), parts["Dense"], bias)
    if "Normalize" in parts:
        _check_names(folder, parts["Normalize"], _read(parts["Normalize"] / "config.json", dict, required=False))
    return _Pipeline(files, settings, _max_length(folder, parts["Transformer"], task), pools_prompt)


def _pooling(folder: Path, path: Path) -> tuple[str, bool]:
    """Return our name of the pooling mode, and whether it takes in the tokens of the prompt."""
    config = _read(path / "config.json", dict)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_POOLING.items() if config.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise _unsupported(folder, f"the pooling {' + '.join(map(str, modes))} ({_name(folder, path)})")
    return _POOLING[modes[0]], bool(config.get("include_prompt", True))


def _dense(folder: Path, path: Path) -> tuple[int, bool]:
    """Return the size of a Dense module's output, and whether it has a bias."""
    config, name = _read(path / "config.json", dict), _name(folder, path)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation != "torch.nn.modules.linear.Identity":
        raise _unsupported(folder, f"a Dense module with the activation {activation} ({name})")
    if config.get("use_residual"):
        raise _unsupported(folder, f"a Dense module with a residual ({name})")
    _check_names(folder, path, config)
    if not (path / "model.safetensors").exists():
        raise UserError(
            f"name_or_path: {path} has no model.safetensors, and pickles are not read here. "
            "Load the model in sentence-transformers and save it again."
        )
    if "out_features" not in config:
        raise _damaged(path / "config.json", "out_features is missing")
    return config["out_features"], bool(config.get("bias", True))


def _check_names(folder: Path, path: Path, config: Mapping[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise _unsupported(folder, f"a module of {config[key]} ({_name(folder, path)})")


def _max_length(folder: Path, path: Path, task: str) -> Any:
    """Return the most tokens of a text, after a check that the Transformer module reads plain text."""
    files = [path / f"sentence_{family}_config.json" for family in _FAMILIES]
    config = next((_read(file, dict) for file in files if file.exists()), {})
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    usual = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": text,
    }
    unusual = [key for key, value in usual.items() if config.get(key, value) != value]
    unusual += [key for key in ("processing_kwargs", "query_expansion") if config.get(key)]
    unusual += [key for key in _ARGUMENTS if set(config.get(key) or {}) - _HARMLESS]
    if unusual:
        raise _unsupported(folder, f"a Transformer with {unusual[0]}={config[unusual[0]]!r}")
    if config.get("do_lower_case") and not _lowercases(path):
        raise _unsupported(folder, "do_lower_case=true and a tokenizer that keeps capitals")
    for key in (f"{task}_length", "max_seq_length"):
        if config.get(key) is not None:
            return config[key]  # Settings checks it
    tokenizer = _read(path / "tokenizer_config.json", dict, required=False)
    limits = [tokenizer.get("model_max_length"), _read(path / "config.json", dict).get("max_position_embeddings")]
    return int(min([LARGEST, *(limit for limit in limits if isinstance(limit, int | float) and limit > 0)]))


def _lowercases(path: Path) -> bool:
    normalizer = _read(path / "tokenizer.json", dict, required=False).get("normalizer") or {}
    steps = normalizer.get("normalizers") or [normalizer]
    return any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps)


def _routes(folder: Path, path: Path) -> dict[str, list[Module]]:
    """Return the modules of a Router's two sides."""
    file = path / "router_config.json"
    config = _read(file if file.exists() else path / "config.json", dict)
    try:
        routes = {
            route: [(str(config["types"][name]), path / name) for name in names]
            for route, names in config["structure"].items()
        }
        mappings = config.get("parameters", {}).get("route_mappings")
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(file, repr(error)) from error
    if set(routes) != {"query", "document"} or mappings:
        raise _unsupported(folder, f"a Router with the routes {', '.join(routes)} and the mapping {mappings or 'none'}")
    return routes


def _module(folder: Path, listed: Any) -> Module:
    try:
        return str(listed["type"]), folder / listed["path"]
    except (TypeError, KeyError) as error:
        raise _damaged(folder / _MODULES, repr(error)) from error


def _kind(folder: Path, module: Module) -> str:
    """Return the kind of a module, a class of sentence-transformers that can be reproduced here."""
    package, _, kind = module[0].rpartition(".")
    if package.partition(".")[0] != "sentence_transformers" or kind not in (*_KINDS, "Router"):
        raise _unsupported(folder, f"the module {module[0]} ({_name(folder, module[1])})")
    return kind


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _read(file: Path, kind: type[T], *, required: bool = True) -> T:
    """Return the content of a JSON file; empty if the file does not exist and need not."""
    if not required and not file.exists():
        return kind()
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(content, kind):
        raise _damaged(file, f"it is not a {kind.__name__}")
    return content


def _damaged(file: Path, problem: str) -> UserError:
    return UserError(f"name_or_path: {file} cannot be read ({problem}). Fetch or save the model again.")


def _unsupported(folder: Path, what: str) -> UserError:
    return UserError(f"name_or_path: {folder} has {what}, which cannot be reproduced here. Choose another model.")


def _download(name: str) -> Path | None:
    """Return the local copy of a hub model that is of sentence-transformers, else None."""
    try:
        hf_hub_download(name, _MODULES)
        return Path(snapshot_download(name, allow_patterns=_FROM_HUB, ignore_patterns=["onnx/*", "openvino/*"]))
    except LocalEntryNotFoundError:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str) and try_to_load_from_cache(name, _MODULES) is None:
            _log.info("%s: the hub cannot be reached to see whether sentence-transformers has settings for it", name)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        pass  # loading the model says what is wrong
    return None
