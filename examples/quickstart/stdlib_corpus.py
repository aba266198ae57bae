"""Build a retrieval corpus from the documentation of the running interpreter's standard library.

There is one passage per public module, class, function and method with a docstring. The docid is the qualified name,
the title is kind, name and signature, and the text is the docstring. Objects with the same docstring and the same last
part of the name become one passage, under the shortest qualified name. Signatures show only defaults of simple types,
because the repr of others may contain addresses, paths or all environment variables (`cgi.parse`), which must not be
published.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
import types
import warnings
from collections.abc import Iterator

# Importing one of these opens a browser or a window, prints text, or starts a test run.
NOT_IMPORTED = {"antigravity", "this", "idlelib", "test", "turtledemo", "tkinter", "turtle"}
# Codec tables, former packaging tools, and the platform-specific variants of `os` and `os.path`.
NOT_DOCUMENTED = {"encodings", "lib2to3", "ensurepip", "distutils", "posix", "nt", "posixpath", "ntpath", "genericpath"}
_PLAIN = (type(None), bool, int, float, str, bytes)  # types of defaults that signatures show
_NAME = re.compile(r"[^(:]+[(:]")  # kind and name, up to and including the `(` or `:` after the name


def build_corpus() -> list[dict[str, str]]:
    """Return passages `{docid, title, text}` sorted by docid. The list is the same on every run of an interpreter."""
    chosen: dict[tuple[str, str], tuple[str, object]] = {}  # (last part of the name, docstring) -> (name, object)
    for name, thing in _public_objects():
        key = (name.rpartition(".")[2], inspect.cleandoc(thing.__doc__ or ""))
        if key not in chosen or _preference(name) < _preference(chosen[key][0]):
            chosen[key] = (name, thing)
    passages = [
        {"docid": name, "title": _title(name, thing), "text": text} for (_, text), (name, thing) in chosen.items()
    ]
    return sorted(passages, key=lambda passage: passage["docid"])


def kind_and_name(title: str) -> str:
    """Return the part of a title that identifies its object, such as `function calendar.monthrange(`.

    The `(` or `:` at its end prevents `module email` from matching `module email.message:`.
    """
    return _NAME.match(title).group()  # type: ignore[union-attr]


def _public_objects() -> Iterator[tuple[str, object]]:
    for module_name in ["os.path", *sorted(sys.stdlib_module_names - NOT_IMPORTED - NOT_DOCUMENTED)]:
        for dotted, module in _modules_below(module_name):
            if _documented(module):
                yield dotted, module
            for name, thing in sorted(vars(module).items()):
                if _belongs(name, thing, module):
                    yield from _with_methods(f"{dotted}.{name}".removeprefix("builtins."), thing)


def _modules_below(dotted: str) -> Iterator[tuple[str, types.ModuleType]]:
    last = dotted.rpartition(".")[2]
    if not last.startswith("_") and last not in {"test", "tests"} and (module := _import(dotted)):
        yield dotted, module
        for inner in sorted(pkgutil.iter_modules(getattr(module, "__path__", [])), key=lambda info: info.name):
            yield from _modules_below(f"{dotted}.{inner.name}")


def _import(dotted: str) -> types.ModuleType | None:
    """Return the module, or None if this platform or build does not have it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(dotted)
        except (ImportError, OSError, AttributeError):
            return None


def _belongs(name: str, thing: object, module: types.ModuleType) -> bool:
    """Return whether an attribute is a public class or function of the module, or of its private C implementation."""
    if name.startswith("_") or not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return False
    if hasattr(module, "__all__"):
        return name in module.__all__
    home = getattr(thing, "__module__", None) or module.__name__
    return home.lstrip("_") == module.__name__ or home in NOT_DOCUMENTED


def _with_methods(dotted: str, thing: object) -> Iterator[tuple[str, object]]:
    if _documented(thing):
        yield dotted, thing
    if inspect.isclass(thing):
        bases = [base for base in reversed(thing.__mro__) if base is thing or base.__name__.startswith("_")]
        for name, member in sorted({name: m for base in bases for name, m in vars(base).items()}.items()):
            function = getattr(member, "__func__", member)  # unwrap classmethod and staticmethod
            if not name.startswith("_") and inspect.isroutine(function) and _documented(function):
                yield f"{dotted}.{name}", function


def _documented(thing: object) -> bool:
    doc = getattr(thing, "__doc__", None)
    return isinstance(doc, str) and len(doc.split()) >= 4


def _preference(name: str) -> tuple[int, int, str]:
    return name.count("."), len(name), name


def _title(name: str, thing: object) -> str:
    if isinstance(thing, types.ModuleType):
        return f"module {name}:"
    bound = inspect.ismethod(thing) or inspect.isbuiltin(thing)
    in_class = "." in getattr(thing, "__qualname__", "") and not bound
    free = "function" if "." in name else "builtin"  # other docstrings mention "the built-in function input()"
    kind = "class" if inspect.isclass(thing) else "method" if in_class else free
    return f"{kind} {name}{_signature(thing)}"


def _signature(thing: object) -> str:
    try:
        signature = inspect.signature(thing)  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError):  # a C function without a signature, or a missing default
        return "(...)"
    shown = [p if _is_plain(p.default) else p.replace(default=_ELLIPSIS) for p in signature.parameters.values()]
    return str(signature.replace(parameters=shown))


def _is_plain(default: object) -> bool:
    if isinstance(default, str) and default.startswith(sys.prefix):
        return False
    return default is inspect.Parameter.empty or type(default) in _PLAIN or default == ()


class _Ellipsis:
    def __repr__(self) -> str:
        return "..."


_ELLIPSIS = _Ellipsis()
