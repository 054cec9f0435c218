"""docs/architecture.md says how the house is: its files, who imports whom, and how an algorithm is added."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pages import ROOT, page, section
from tiny import same_weights, tiny_policy
from tiny_runs import PROMPTS

from algos import ALGORITHMS, GuardedReward, RewardCalls, Sampling, train


def files_in_tree(text: str) -> set[str]:
    """The paths that the tree under "The house" names, folders with a slash."""
    found, folders = set(), []
    for line in text.splitlines():
        if match := re.match(r"( *)(\S+)(?:  .*)?$", line):
            depth = len(match[1]) // 2
            folders[depth:] = [match[2]] if match[2].endswith("/") else []
            found.add(
                "".join(folders[: depth + 1]) if match[2].endswith("/") else "".join(folders) + match[2]
            )
    return found


def test_the_tree_names_every_file() -> None:
    (block,) = re.findall(r"```\n(.*?)```", section(page("architecture.md"), "The house"), re.DOTALL)
    named = files_in_tree(block)
    there = {
        file.relative_to(ROOT).as_posix()
        for top in ("algos", "eval")
        for file in (ROOT / top).rglob("*")
        if file.suffix in (".py", ".css", ".jinja") and "__pycache__" not in file.parts
    }
    assert {
        name for name in named if name.startswith(("algos/", "eval/")) and not name.endswith("/")
    } == there
    assert all((ROOT / name).exists() for name in named - {"reports/"})  # made by the first comparison


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    paths = [path for top in ("algos", "eval") for path in (ROOT / top).rglob("*.py")] + [
        ROOT / "run_compare.py"
    ]
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


@cache
def imported(path: Path, at_load: bool = False, for_types: bool = False) -> frozenset[str]:
    """Modules that a file imports; `at_load`: not inside its functions; `for_types`: for type checkers, too."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if not for_types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if at_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in modules() else node.module or "" for name in inner)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(found)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def ours(names: frozenset[str]) -> list[str]:
    return [name for name in names if within(name, "algos", "eval", "run_compare")]


REPORT = {
    "numbers": ("caveats", "figures", "sections", "page"),
    "caveats": ("figures", "sections", "page"),
    "figures": ("caveats", "sections", "page"),
    "sections": ("page",),
}
"""What each part of the report must not know of."""


def test_imports_go_down_only() -> None:
    leaves = ["algos", *(kind.__module__ for kind in ALGORITHMS.values())]
    for name, path in modules().items():
        names = imported(path, for_types=True)
        if within(name, "algos"):
            assert not [other for other in names if within(other, "eval", "run_compare")], name
        if within(name, "algos.engine"):
            assert not names & set(leaves), name
        if within(name, "algos.engine.fast"):
            beneath = ("fast", "inputs", "memory", "recompute", "rollouts")
            assert all(within(other, *(f"algos.engine.{own}" for own in beneath)) for other in ours(names)), (
                name
            )
        if within(name, "algos.engine.text"):
            beneath = ("text", "errors")
            assert all(within(other, *(f"algos.engine.{own}" for own in beneath)) for other in ours(names)), (
                name
            )
        for part, above in REPORT.items():
            if within(name, f"eval.report.{part}"):
                assert not [
                    other for other in names if within(other, *(f"eval.report.{a}" for a in above))
                ], name
        if name == "algos.losses":
            assert not ours(names), name
        if name == "algos.advantages":
            assert {*ours(names)} <= {"algos.losses", "algos.engine.rollouts"}, name
        if within(name, "eval"):
            assert "run_compare" not in names, name


def test_the_report_needs_no_model() -> None:
    """All that eval.report reaches, at load or later."""
    known, reached, waiting = modules(), set(), ["eval.report.page"]
    outside: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            names = imported(known[name])
            waiting += names & known.keys()
            outside |= {other.split(".")[0] for other in names - known.keys()}
    numbers = ("eval.escape", "eval.format", "eval.glossary", "eval.sessions", "eval.stats", "eval.frontier")
    assert not [
        name
        for name in reached
        if not within(name, "eval.report") and not any(within(name, own) for own in numbers)
    ]
    assert not outside & {"torch", "transformers", "trl", "peft", "algos", "run_compare"}


def test_no_circles_and_slow_libraries_are_imported_late() -> None:
    known = modules()
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    graph = {name: (imported(path, at_load=True) & known.keys()) - packages for name, path in known.items()}
    list(graphlib.TopologicalSorter({name: graph[name] for name in graph.keys() - packages}).static_order())
    slow = {
        "matplotlib",
        "seaborn",
        "pandas",
        "scipy",
        "statsmodels",
        "trl",
        "datasets",
        "sacrebleu",
        "optuna",
    }
    for name, path in known.items():
        assert not {other.split(".")[0] for other in imported(path, at_load=True)} & slow, name


def test_no_test_file_imports_from_another() -> None:
    """What they share is in modules without tests: whoever changes a test file changes that one alone."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    tests = {"tests", *(file.stem for file in files if file.stem.startswith("test_"))}
    for file in files:
        names = {part for name in imported(file, for_types=True) for part in name.split(".")}
        assert not names & tests, file


# The example -------------------------------------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ModuleType]:
    """The algorithm that docs/architecture.md adds, as the file it says to write."""
    (code,) = re.findall(r"```python\n(.*?)```", section(page("architecture.md"), "An algorithm"), re.DOTALL)
    (tmp_path / "grpo.py").write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("grpo", tmp_path / "grpo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["grpo"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["grpo"]


def count_b(completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("b") / 4 for text in completions]


def test_the_added_algorithm_is_short_trains_and_learns(example: ModuleType) -> None:
    source = Path(str(example.__file__)).read_text(encoding="utf-8")
    assert len(source[source.index("@dataclass") :].strip().splitlines()) <= 30
    policy = tiny_policy()
    sampling = Sampling(max_new_tokens=4, group_size=8, prompts_per_iteration=4)
    options: dict[str, Any] = {"prompts": PROMPTS, "reward": count_b, "sampling": sampling}
    rows = train(example.GRPO(learning_rate=1e-2), policy, budget="2iterations", **options).rows
    assert [row["updates"] for row in rows] == [1, 2]
    assert rows[0]["kl_loss"] == pytest.approx(0, abs=1e-9)
    assert rows[1]["kl_loss"] > 0
    again = tiny_policy()
    rows = train(example.GRPO(learning_rate=2e-2), again, budget="15iterations", **options).rows
    assert rows[-1]["reward/train"] > rows[0]["reward/train"] + 0.2


def test_the_added_algorithms_clip_acts_from_its_second_pass_on(example: ModuleType) -> None:
    sampling = Sampling(max_new_tokens=4, group_size=8, prompts_per_iteration=4)
    options: dict[str, Any] = {
        "prompts": PROMPTS,
        "reward": count_b,
        "sampling": sampling,
        "budget": "1iterations",
    }
    policies = [tiny_policy() for _ in range(4)]
    rows = [
        train(example.GRPO(learning_rate=1e-1, clip_range=clip, ppo_epochs=epochs), policy, **options).rows[0]
        for policy, (clip, epochs) in zip(policies, [(0.01, 1), (0.5, 1), (0.01, 2), (0.5, 2)], strict=True)
    ]
    assert [row["updates"] for row in rows] == [1, 1, 2, 2]
    assert [row["clip_fraction"] > 0 for row in rows] == [False, False, True, True]
    assert same_weights(policies[0], policies[1])
    assert not same_weights(policies[2], policies[3])


def test_the_added_algorithm_bears_responses_without_a_score(example: ModuleType) -> None:
    def reward(completions: list[str], **_: Any) -> list[float | None]:
        scores: list[float | None] = [*count_b(completions)]
        return [None, *scores[1:]]

    careful = GuardedReward(reward, RewardCalls(allow_unscored=True))
    sampling = Sampling(max_new_tokens=4, group_size=4, prompts_per_iteration=4)
    rows = train(
        example.GRPO(),
        tiny_policy(),
        prompts=PROMPTS,
        reward=careful,
        sampling=sampling,
        budget="2iterations",
    ).rows
    assert [row["unscored/train"] for row in rows] == [1 / 16, 1 / 16]


def test_one_line_puts_it_on_the_command_line(example: ModuleType) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import algos; from grpo import GRPO\n"
        "algos.ALGORITHMS['grpo'] = GRPO\n"
        "from run_compare import parse\n"
        "asked = parse(['--algos', 'ppo', 'grpo', '--grpo.clip-range', '0.1']).experiment\n"
        "print(list(asked.arms), asked.arms['grpo'].clip_range)\n"
    )
    folder = str(Path(str(example.__file__)).parent)
    found = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert found.stdout.strip() == "['ppo', 'grpo'] 0.1", found.stderr
