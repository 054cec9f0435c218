"""`path/to/file.py:function` → the function: the user's own rewards and judges."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from algos.engine.errors import UserError


class LoadedFunction:
    """A user's function that knows where it came from: pickled as its `spec`, loaded again from it.

    `spec` is absolute, so that a worker process with another working directory finds the same file.
    """

    def __init__(self, function: Callable[..., Any], spec: str, what: str) -> None:
        self.function = function
        self.spec = spec
        self.what = what
        self.__name__ = spec.rpartition(":")[2]  # TRL names its reward columns by it
        self.__doc__ = function.__doc__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., LoadedFunction], tuple[str, str]]:
        return load_function, (self.spec, self.what)


def load_function(spec: str, what: str = "reward") -> LoadedFunction:
    """The function that `spec` (`path/to/file.py:name`) names.

    Loads exactly the file given, from its source (a stale or foreign `.pyc` is not looked at). While it
    loads its own folder is importable, after Python's own modules and what is installed, and the working
    directory is not; afterwards `sys.path` is what it was. `what` ("reward", "judge") names the function's
    role in messages. Raises `UserError`: no colon, no such file, the file raises, no such function (with a
    suggestion), not callable.
    """
    path, name = _located(spec, what)
    module = _load_module(path, what)
    if not hasattr(module, name):
        raise UserError(_no_such_function(_functions_in(module), spec, what))
    function = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise UserError(f"the {what} {spec!a} is not a function but of type {kind}. Name a function.")
    return LoadedFunction(function, f"{path}:{name}", what)


def require_function(spec: str, what: str = "reward") -> None:
    """Raises UserError where `load_function` would, as far as can be told without running the file."""
    path, name = _located(spec, what)
    try:
        tree = ast.parse(_content(path, what), str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(_import_failure(error, path, what)) from error
    if name not in set(_bound_in(tree)) and not _BINDING & set(_named_in(tree)):
        defined = (node.name for node in tree.body if isinstance(node, _DEFINITIONS))
        raise UserError(_no_such_function([each for each in defined if not each.startswith("_")], spec, what))


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BINDING = {
    "exec", "eval", "globals", "locals", "vars", "setattr", "builtins", ".modules", ".f_globals", ".f_locals", ".__dict__",
    "__getattr__", "modules", "*",
}  # fmt: skip
"""Of a file that has one of these, only loading it would tell which names it has."""


def _bound_in(tree: ast.Module) -> Iterator[str]:
    """Names that a file defines, assigns or imports, in functions and classes too, attributes among them: they may be
    those of the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.Name | ast.Attribute):
            if isinstance(node.ctx, ast.Store):
                yield node.id if isinstance(node, ast.Name) else node.attr
        else:
            yield from (getattr(node, part) for part in ("name", "rest") if hasattr(node, part))


def _named_in(tree: ast.Module) -> Iterator[str]:
    """Every name in a file, wherever it stands; an attribute's with its dot: `model.eval()` binds nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield f".{node.attr}"
        else:
            yield from (getattr(node, part) for part in ("id", "name") if hasattr(node, part))


def is_pairwise(function: Callable[..., Any]) -> bool:
    """Whether a judge compares two responses: `f(prompts, a, b) -> list[P(a better)]`, told by a and b."""
    if isinstance(function, LoadedFunction):
        function = function.function
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # callables written in C may have no signature
        return False
    return {"a", "b"} <= parameters.keys()


def _located(spec: str, what: str) -> tuple[Path, str]:
    """The file and the name in it. Raises UserError where `spec` is none of a function, or there is no such file."""
    path_text, colon, name = spec.rpartition(":")
    if not colon or not path_text or not name:
        raise UserError(f"a {what} function is named file.py:function; got {spec!a}.")
    path = Path(path_text).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"there is no Python file {path_text!a} for the {what} {spec!a}. Check the path.")
    return path, name


def _content(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the {what}'s file {path} cannot be read: {error.strerror}.") from None


class _SourceOnly(SourceFileLoader):
    """Reads and writes no bytecode: the cache beside a file may be stale, read-only, or someone else's."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError(f"no cached bytecode for {path}")  # as importlib asks of loaders that keep none


def _load_module(path: Path, what: str) -> ModuleType:
    """The module of a file; the same one again while the file is unchanged (two of its functions share it)."""
    content = _content(path, what)
    name = f"user_{path.stem}_{hashlib.blake2b(bytes(path) + b'|' + content, digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceOnly(name, str(path)))
    assert spec is not None  # given a loader, there is always one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and the like look their module up
    known = set(sys.modules)
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(_import_failure(error, path, what)) from error
    finally:
        _forget_helpers(path.parent, known)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder can be imported from in the block, and the working directory ("") cannot.

    The folder comes last: were it first, its `json.py` would be everybody's `json` who imports that name next.
    """
    before = list(sys.path)
    sys.path[:] = [*filter(None, before), str(folder)]
    try:
        yield
    finally:
        sys.path[:] = before  # the file may have changed it, too


def _forget_helpers(folder: Path, known: set[str]) -> None:
    """Forget the modules that only this folder provides: another file's helper may have the same name."""
    new = set(sys.modules) - known
    for top in [name for name in new if "." not in name and _provided_by(folder, sys.modules[name])]:
        family = {name: sys.modules.pop(name) for name in new if name.partition(".")[0] == top}
        if _found_in(importlib.util.find_spec(top)) == folder:  # on the path anyway: it stays
            sys.modules.update(family)


def _provided_by(folder: Path, module: ModuleType) -> bool:
    return _found_in(getattr(module, "__spec__", None)) == folder


def _found_in(spec: ModuleSpec | None) -> Path | None:
    """The folder in which a top-level module or package was found."""
    if spec is None:
        return None
    place = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return Path(place).parent if place else None


def _import_failure(error: BaseException, path: Path, what: str) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line: int | None = error.lineno
    else:
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = frames[-1] if frames else None
    message = " ".join(str(error).split())
    said = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"the {what}'s file {path}:{line or '?'} raises {said}. Fix it: it must load on its own."


def _functions_in(module: ModuleType) -> list[str]:
    return [
        known
        for known, value in vars(module).items()
        if callable(value) and not known.startswith("_") and not _imported(value, module)
    ]


def _no_such_function(functions: Sequence[str], spec: str, what: str) -> str:
    """`functions`: those that its file has."""
    path_text, _, name = spec.rpartition(":")
    close = difflib.get_close_matches(name, functions, n=3)
    if close:
        hint = f"Did you mean {' or '.join(close)}?"
    else:
        hint = f"It has {', '.join(sorted(functions)[:10]) or 'no functions'}."
    return f"{path_text} has no function {name!a} for the {what}. {hint}"


def _imported(value: Any, module: ModuleType) -> bool:
    """Whether a function or class is another module's, such as `Any`; an object is this one's, wherever its class is."""
    named = inspect.isclass(value) or inspect.isroutine(value)
    return named and getattr(value, "__module__", module.__name__) != module.__name__
