"""What the program's code may not do, read from its syntax: run what it reads, open what can run, call out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [*sorted(ROOT.glob("algos/**/*.py")), *sorted(ROOT.glob("eval/**/*.py")), ROOT / "run_compare.py"]

MODULES = {
    # run what is in a file
    "pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle", "runpy", "imp", "code", "ctypes",
    # other processes
    "subprocess", "multiprocessing", "pty",
    # the network
    "socket", "socketserver", "http", "urllib", "ssl", "ftplib", "smtplib", "xmlrpc", "requests", "httpx", "aiohttp",
}  # fmt: skip
NAMES = {
    "eval", "exec", "compile", "__import__", "breakpoint",
    "os.system", "os.popen", "os.startfile", "tempfile.mktemp",
    "importlib.import_module", "importlib.__import__", "builtins.eval", "builtins.exec",
    "torch.load", "torch.save", "torch.hub", "torch.jit.load", "torch.package",
    "numpy.load", "numpy.save", "numpy.savez", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.safe_load", "yaml.Loader", "yaml.UnsafeLoader",
    "yaml.FullLoader", "jinja2.Template",
}  # fmt: skip
KEYWORDS = {("shell", True), ("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False),
            ("use_safetensors", False), ("verify", False)}  # fmt: skip

EXCEPTIONS = {
    ("algos/engine/models/weights.py", "torch.load"): "takes it away from the libraries while they load",
    (
        "algos/engine/text/rendering.py",
        "subprocess",
    ): "chat templates run in a process with bounds; its arguments are fixed",
    (
        "algos/engine/fast/heap.py",
        "ctypes",
    ): "tells glibc to keep freed memory; what is called, and with what, is fixed",
    ("eval/process/measure.py", "subprocess"): "asks git for the commit; its arguments are fixed",
    (
        "eval/process/workers.py",
        "multiprocessing",
    ): "workers; what is pickled are our own jobs, between our own processes",
    ("eval/process/worker.py", "multiprocessing"): "the other end of the same pipes",
}


def faults(source: str) -> Iterator[str]:
    """What `source` does of the above, by the names under which the modules were imported."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield from _module(alias.name)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            yield from _module(node.module or "")
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            name = _dotted(node, known)  # a setting may be *named* `eval`
            if name in NAMES:
                yield name
        if isinstance(node, ast.Call):
            yield from _call(node, known)


def _module(name: str) -> Iterator[str]:
    if name.partition(".")[0] in MODULES:
        yield name.partition(".")[0]


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else ""


def _call(node: ast.Call, known: dict[str, str]) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    for name, value in given.items():
        if isinstance(value, ast.Constant) and (name, value.value) in KEYWORDS:
            yield f"{name}={value.value}"
    who = _dotted(node.func, known).rpartition(".")
    kind = who[0].rpartition(".")[2]
    if who[2] == "from_pretrained" and kind.startswith("Auto"):
        if (
            "trust_remote_code" not in given
        ):  # left out, transformers asks on the terminal whether to run code
            yield "from_pretrained without trust_remote_code"
        if kind.startswith("AutoModel") and "use_safetensors" not in given:
            yield "from_pretrained without use_safetensors"


def test_the_program_does_none_of_it() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), fault)
        for path in FILES
        for fault in faults(path.read_text("utf-8"))
    }
    assert sorted(found - EXCEPTIONS.keys()) == []
    assert sorted(EXCEPTIONS.keys() - found) == []  # an exception that is no longer needed


def test_models_are_loaded_where_pickles_are_refused() -> None:
    """By the file: each that loads a model does it in `safetensors_only`."""
    loading = {path for path in FILES for name in _names_called(path) if name in ("AutoModel", "PeftModel")}
    assert len(loading) >= 3
    assert [
        path for path in loading if not re.search(r"with .*safetensors_only\(", path.read_text("utf-8"))
    ] == []


def _names_called(path: Path) -> Iterator[str]:
    """AutoModel of AutoModelForCausalLM.from_pretrained(…)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "from_pretrained"
            and isinstance(node.value, ast.Name)
        ):
            yield node.value.id[:9]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import multiprocessing.shared_memory", "multiprocessing"),
        ("import urllib.request", "urllib"),
        ("eval('1')", "eval"),
        ("f = exec", "exec"),
        ("import os\nos.system('x')", "os.system"),
        ("from os import system as s\ns('x')", "os.system"),
        ("import torch as t\nt.load('x')", "torch.load"),
        ("from torch import load\nload('x')", "torch.load"),
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("import yaml\nyaml.load(x, yaml.Loader)", "yaml.load"),
        ("import yaml\nyaml.safe_load(x)", "yaml.safe_load"),
        ("import importlib\nimportlib.import_module(x)", "importlib.import_module"),
        ("run(x, shell=True)", "shell=True"),
        ("f(trust_remote_code=True)", "trust_remote_code=True"),
        ("f(weights_only=False)", "weights_only=False"),
        ("AutoConfig.from_pretrained(x)", "from_pretrained without trust_remote_code"),
        (
            "AutoModelForCausalLM.from_pretrained(x, trust_remote_code=False)",
            "from_pretrained without use_safetensors",
        ),
    ],
)
def test_each_is_recognised(source: str, fault: str) -> None:
    assert fault in set(faults(source))


def test_what_only_looks_like_it_is_not() -> None:
    harmless = "from eval import stats\nmodel.eval()\nre.compile('x')\nsafe.load(x)\nAutoConfig.from_pretrained(x, trust_remote_code=t)"
    assert list(faults(harmless)) == []
