"""The whole report: every section in its order, the same bytes twice, and nothing lost where something is missing."""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hostile_outputs import Elements
from matplotlib.figure import Figure
from report_world import World, world

from eval.report.figures import theme
from eval.report.page import write_report

TITLES = [
    "Verdict",
    "What every arm reached",
    "Every seed",
    "The arms against each other",
    "Reward against KL",
    "Cost",
    "Learning curves",
    "Over-optimization",
    "The same prompts, side by side",
    "Diagnostics of training",
    "Data and preparation",
    "Failed runs",
    "Configuration and versions",
    "Definitions",
    "What to do next",
]


@pytest.fixture(scope="module")
def typical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(world(Path("reports/example")), tmp_path_factory.mktemp("typical")).parent


def test_everything_is_there_in_its_order(typical: Path) -> None:
    page = (typical / "report.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == TITLES
    assert re.findall(r"^## (.*)$", (typical / "report.md").read_text(), re.MULTILINE) == TITLES
    stems = {path.stem for path in (typical / "figures").glob("*.svg")}
    assert stems == {path.stem for path in (typical / "figures").glob("*.png")}
    assert {"win-rates", "reward-kl", "learning-curves", "proxy-judge", "seeds", "diagnostics-3"} <= stems


def test_the_budget_is_in_powers_as_costs_are(typical: Path) -> None:
    assert "3 arms × 3 seeds · budget 2.1×10¹³ FLOPs a run" in (typical / "report.md").read_text()


def test_contents_lead_somewhere(typical: Path) -> None:
    opened = Elements((typical / "report.html").read_text()).opened
    targets = {attributes["id"] for _, attributes in opened if "id" in attributes}
    links = [attributes["href"][1:] for tag, attributes in opened if tag == "a"]
    assert len(links) == len(TITLES)
    assert set(links) == targets


def test_report_says_how_to_go_on(typical: Path) -> None:
    page = "".join(Elements((typical / "report.html").read_text()).words)
    assert 'Policy.load("reports/example/runs/reinforce-s0/policy")' in page
    assert "rlhf-compare --resume reports/example --seeds 5" in page
    assert "rlhf-compare --config reports/example/experiment.yaml --algos reinforce --seeds 1" in page


def test_same_input_same_bytes(typical: Path, tmp_path: Path) -> None:
    write_report(world(Path("reports/example")), tmp_path)
    names = sorted(path.relative_to(typical) for path in typical.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in names if (typical / name).read_bytes() != (tmp_path / name).read_bytes()] == []


def test_style_is_the_only_one_allowed(typical: Path) -> None:
    page = (typical / "report.html").read_text()
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    policy = next(
        a["content"] for _, a in Elements(page).opened if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'")


def test_csv_and_parquet_have_every_row(typical: Path) -> None:
    results = world(Path("reports/example")).results
    assert len(pd.read_csv(typical / "results.csv")) == len(results)
    pd.testing.assert_frame_equal(pd.read_parquet(typical / "results.parquet"), results, check_dtype=False)


TWO = {"reinforce": "reinforce", "dpo": "dpo"}
DAMAGED = {
    "one run": lambda path: world(path, {"reinforce": "reinforce"}, 1),
    "all failed": lambda path: world(path, TWO, 2, failed=list(itertools.product(TWO, range(2)))),
    "no training reward": lambda path: without(world(path, TWO, 2), "reward/proxy"),
    "no KL": lambda path: without(world(path, TWO, 2), "kl/sequence"),
    "no judge": lambda path: without(world(path, TWO, 2), "reward/judge"),
    "base alone": lambda path: only_base(world(path, TWO, 2)),
    "bare": lambda path: dataclasses.replace(
        world(path, TWO, 2),
        facts={},
        settings={},
        environment={},
        events=pd.DataFrame(),
        samples=pd.DataFrame(),
    ),
}


def without(made: World, metric: str) -> World:
    return dataclasses.replace(made, results=made.results[made.results["metric"] != metric])


def only_base(made: World) -> World:
    runs = made.runs.assign(status="missing", policy="")
    return dataclasses.replace(made, results=made.results[made.results["arm"] == "base"], runs=runs)


@pytest.mark.parametrize("name", DAMAGED)
def test_every_section_stands_whatever_is_missing(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name != "no KL":  # which is drawn, too
        request.getfixturevalue("sketched")
    page = write_report(DAMAGED[name](Path("x")), tmp_path).read_text()
    found = re.findall(r"<h2>(.*?)</h2>", page)
    assert [title for title in TITLES if title in found] == found
    assert {"Verdict", "What every arm reached", "Failed runs", "What to do next"} <= set(found)
    assert "nan" not in re.sub(r"data:[^\"]*", "", page.replace("returned NaN", "")).lower()


@pytest.mark.usefixtures("sketched")
def test_figures_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "diagnostics-9.svg").write_text("old")
    (tmp_path / "figures" / "notes.txt").write_text("mine")
    write_report(world(Path("x"), {"reinforce": "reinforce"}, 1), tmp_path)
    assert not (tmp_path / "figures" / "diagnostics-9.svg").exists()
    assert (tmp_path / "figures" / "notes.txt").exists()


@pytest.mark.usefixtures("sketched")
def test_a_report_that_cannot_be_finished_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(world(Path("x"), TWO, 2), tmp_path)
    (tmp_path / "figures" / "diagnostics-9.svg").write_text("of the report before")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    save, count = theme.save, itertools.count()

    def full(figure: Figure, folder: Path, stem: str) -> None:
        save(figure, folder, stem)
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(theme, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(world(Path("x"), TWO, 3), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.rglob(".*")] == []


@pytest.mark.usefixtures("sketched")
def test_what_a_killed_report_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed:  # nothing is cleaned up
        killed.setattr("shutil.rmtree", lambda folder: None)
        killed.setattr("os.replace", lambda file, target: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            write_report(world(Path("x"), TWO, 2), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".report.drawing"]
    write_report(world(Path("x"), {"ppo": "ppo"}, 1), tmp_path)
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_importing_the_report_is_light() -> None:
    heavy = "import eval.report.page, sys; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
