"""A whole comparison of hostile words, and its page in a browser: no script runs, nothing is asked of anybody."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import lxml.etree
import pandas as pd
import pytest
from hostile_outputs import FORMULA, Elements, document, is_quiet
from hostile_world import FAILURE, hostile, hostile_comparison
from markdown_it import MarkdownIt
from markdown_it.token import Token
from payloads import HOST, HTML, PAYLOADS, RAN

import run_compare
from eval.report import page
from eval.report.document import Document, Section

TAGS = {
    "html", "head", "meta", "title", "style", "body", "div", "header", "h1", "h2", "h3", "p", "nav", "b", "ol", "ul", "li",
    "a", "main", "section", "table", "thead", "tbody", "tr", "th", "td", "small", "bdi", "details", "summary", "figure",
    "img", "figcaption", "pre", "code", "span",
}  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@dataclass(frozen=True)
class Compared:
    status: int
    said: str
    out: Path

    def text(self, name: str) -> str:
        return (self.out / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """A comparison carried out by the command line, one run of which fails with a hostile message."""
    arguments, out = hostile_comparison(tmp_path_factory.mktemp("hostile"))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = run_compare.main(arguments)
    return Compared(status, said.getvalue(), out)


def test_the_words_came_through(compared: Compared) -> None:
    """Or the rest would prove nothing."""
    assert compared.status == 1, compared.said
    shown = "".join(Elements(compared.text("report.html")).words)
    assert sum(payload in shown for payload in HTML) >= 10
    assert FAILURE[:40] in shown
    assert "1 of 3 runs failed" in compared.said


def test_the_terminal_showed_text(compared: Compared) -> None:
    assert is_quiet(compared.said)


def has_its_own_elements_alone(html: str) -> None:
    found = Elements(html)
    assert {tag for tag, _ in found.tags} <= {*TAGS, "/", "!"}
    for _, attributes in found.opened:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert attributes.get("src", "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
        assert attributes.get("href", "#").startswith("#")


def parsed(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)


def links_to_itself_alone(markdown: str) -> None:
    for part in [child for token in parsed(markdown) for child in [token, *(token.children or [])]]:
        assert str(part.attrs.get("href", "#")).startswith("#")
        assert str(part.attrs.get("src", "figures/")).startswith("figures/")
        if part.type.startswith("html"):
            found = Elements(part.content)
            assert {tag for tag, _ in found.tags} <= {"a", "details", "summary", "/"}
            assert {name for _, attributes in found.opened for name in attributes} <= {"id"}


def formulas(table: Path) -> list[str]:
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    texts = frame[["arm", "algorithm", "metric"]].to_numpy().ravel()
    return [text for text in texts if text.startswith(FORMULA)]


def test_the_page_is_of_the_report_s_own_elements(compared: Compared) -> None:
    has_its_own_elements_alone(compared.text("report.html"))


def test_its_markdown_and_the_policies_cards_link_to_nothing_but_themselves(compared: Compared) -> None:
    files = [compared.out / "report.md", *compared.out.glob("runs/*/policy/README.md")]
    assert len(files) == 3
    for file in files:
        links_to_itself_alone(file.read_text(encoding="utf-8"))


def test_figures_hold_no_script_and_no_link_out(compared: Compared) -> None:
    figures = list((compared.out / "figures").glob("*.svg"))
    assert figures
    for figure in figures:
        for element in lxml.etree.parse(figure).iter():
            if not isinstance(element.tag, str):
                continue  # a comment
            assert lxml.etree.QName(element).localname not in (
                "script",
                "foreignObject",
                "a",
                "animate",
                "set",
            )
            for name, value in element.attrib.items():
                local = lxml.etree.QName(name).localname
                assert not local.startswith("on")
                assert local != "href" or str(value).startswith(("#", "data:image/png"))


def test_tables_hold_no_formula(compared: Compared) -> None:
    assert not formulas(compared.out / "results.csv")


def test_names_of_files_are_the_program_s_own(compared: Compared) -> None:
    names = {path.name for path in compared.out.rglob("*")}
    assert [name for name in names if not re.fullmatch(r"\.?[A-Za-z0-9_.-]+", name)] == []


@pytest.mark.usefixtures("sketched")
def test_stored_facts_and_settings_are_shown_as_text(tmp_path: Path) -> None:
    """A comparison's files may be anybody's: what no command would have written into them does nothing either."""
    folder = page.write_report(hostile(Path("reports/x")), tmp_path).parent
    html, markdown, table = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md", "results.csv")
    )
    has_its_own_elements_alone(html)
    links_to_itself_alone(markdown)
    assert not formulas(folder / "results.csv")
    heads = [token.tag for token in parsed(markdown) if token.type == "heading_open"]
    for level in ("h1", "h2"):
        assert heads.count(level) == [tag for tag, _ in Elements(html).opened].count(level) > 0
    words = "".join(Elements(html).words)
    assert words.count("<script>alert(1)</script>") > 20
    assert "\\x1b]0;title\\x07 \\u202eevil" in words
    assert all(is_quiet(text) for text in (words, markdown.replace("\u2060", ""), table))
    assert not set(html) & {"\x1b", "\x07", "\u202e"}
    assert "'=evil" in table


# In a browser


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page, and the log of all that it asked for."""

    page: str
    log: str

    @property
    def ran(self) -> bool:
        return f"<title>{RAN}</title>" in self.page

    @property
    def asked(self) -> bool:
        return HOST in self.log


def visit(file: Path, scratch: Path) -> Visit:
    assert CHROMIUM is not None
    log = scratch / f"{file.stem}.log.json"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}",
            "--virtual-time-budget=2000", "--dump-dom", file.resolve().as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return Visit(done.stdout, log.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every payload in every place."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "seeds.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    sections = tuple(Section("a", text, document(text).sections[0].blocks) for text in PAYLOADS)
    file = folder / "report.html"
    file.write_text(page.html(Document("report", "", sections), {}, folder), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@browser
@pytest.mark.slow
def test_no_script_of_a_payload_runs_and_nothing_is_asked_for(written: Path, scratch: Path) -> None:
    seen = visit(written, scratch)
    assert seen.page.count("<section") == len(PAYLOADS)
    assert not seen.ran
    assert not seen.asked
    assert {tag for tag, _ in Elements(seen.page).tags} <= {*TAGS, "/", "!"}


@browser
@pytest.mark.slow
def test_nor_in_the_comparison_s_own_report(compared: Compared, scratch: Path, tmp_path: Path) -> None:
    file = shutil.copy(compared.out / "report.html", tmp_path / "whole.html")
    seen = visit(file, scratch)
    assert "</section>" in seen.page
    assert not seen.ran
    assert not seen.asked


@browser
@pytest.mark.slow
@pytest.mark.parametrize("protected", [True, False])
def test_the_policy_alone_would_hold_them(
    protected: bool, written: Path, scratch: Path, tmp_path: Path
) -> None:
    """Were the escaping lost, the page's Content-Security-Policy would still run and load nothing. Without it the
    same browser does both, or the tests above would prove nothing."""
    injected = "".join(
        text for text in HTML if f"{RAN}</script>" in text or "onerror=" in text or "src=" in text
    )
    whole = written.read_text(encoding="utf-8").replace("<main>", f"<main>{injected}", 1)
    file = tmp_path / f"injected-{protected}.html"
    file.write_text(whole if protected else re.sub("<meta http-equiv=.*?>", "", whole), encoding="utf-8")
    seen = visit(file, scratch)
    assert seen.ran is not protected
    assert seen.asked is not protected
