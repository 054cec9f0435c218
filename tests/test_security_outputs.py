"""Hundreds of hostile texts in HTML, Markdown, CSV and on the terminal: each is shown, none does anything."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lxml.html
import pandas as pd
import pytest
from hostile_outputs import FORMULA, Elements, document, is_quiet
from markdown_it import MarkdownIt
from markdown_it.token import Token
from payloads import PAYLOADS
from rich.console import Console as RichConsole

import run_compare
from algos import UserError
from eval.console import Console
from eval.escape import visible
from eval.process.jobs import Job
from eval.process.quiet import quiet
from eval.report import page


def active(is_harmless: Callable[[str], bool]) -> list[str]:
    """The payloads that did something, spelled out."""
    return [ascii(payload) for payload in PAYLOADS if not is_harmless(payload)]


def test_there_are_enough_of_them() -> None:
    assert len(PAYLOADS) >= 200
    security = (Path(__file__).parents[1] / "SECURITY.md").read_text(encoding="utf-8")
    assert f"with {len(PAYLOADS)} texts" in security


# HTML


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page of each payload, and of the harmless "x"."""
    figures = tmp_path_factory.mktemp("figures")
    (figures / "seeds.svg").write_text("<svg/>", encoding="utf-8")
    return {text: page.html(document(text), {}, figures) for text in ["x", *PAYLOADS]}


def test_html_has_no_element_and_no_attribute_of_a_payload(pages: dict[str, str]) -> None:
    expected = Elements(pages["x"])
    places = expected.words.count("x")

    def is_text(payload: str) -> bool:
        found = Elements(pages[payload])
        return found.tags == expected.tags and "".join(found.words).count(visible(payload)) >= places

    assert places > 30
    assert active(is_text) == []


def test_another_parser_finds_none_either(pages: dict[str, str]) -> None:
    expected = list(_libxml(pages["x"]))
    assert active(lambda payload: list(_libxml(pages[payload])) == expected) == []


def _libxml(text: str) -> Iterator[tuple[Any, list[str]]]:
    for element in lxml.html.document_fromstring(text).iter():
        yield element.tag, sorted(element.attrib)


# Markdown


def test_markdown_is_what_it_was_without_the_payload() -> None:
    expected = _structure(_parsed("x"))
    assert active(lambda payload: _structure(_parsed(payload)) == expected) == []


def test_markdown_has_no_address_or_number_that_a_forge_would_link() -> None:
    linked = re.compile(r"(https?|ftp|mailto|xmpp):[^\s\u2060]|www\.|@\w|(?<![&(])#\w", re.IGNORECASE)

    def is_text(payload: str) -> bool:
        inline = [token.content for token in _parsed(payload) if token.type == "inline"]
        return not any(linked.search(content) for content in inline)

    assert active(is_text) == []


@cache
def _parsed(text: str) -> list[Token]:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return reader.parse(page.markdown(document(text)))


def _structure(tokens: list[Token]) -> list[Any]:
    """All but texts: blocks, emphasis, links and images with their targets, HTML."""
    inner = [child for token in tokens for child in [token, *(token.children or [])]]
    return [
        (token.type, token.tag, token.info, {**token.attrs, "alt": ""}, Elements(html).tags)
        for token in inner
        if token.type not in ("text", "text_special", "softbreak")
        for html in [token.content if token.type.startswith("html") else ""]
    ]


# CSV


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """results.csv with the payloads as arms and, in another order, as metrics."""
    folder = tmp_path_factory.mktemp("csv")
    texts = [
        text for text in PAYLOADS if "\ud800" not in text
    ]  # Parquet, written beside it, has no such thing
    frame = pd.DataFrame({"arm": texts, "=1+1": texts[::-1], "value": range(len(texts))})
    page._write_results(frame, folder)
    return (folder / "results.csv").read_bytes().decode("utf-8")


def test_csv_has_a_row_a_payload_and_the_numbers_as_they_were(table: str) -> None:
    rows = list(csv.reader(io.StringIO(table)))
    assert rows[0] == ["arm", "'=1+1", "value"]
    assert [int(row[2]) for row in rows[1:]] == list(range(len(rows) - 1))
    assert len(rows) > 200


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_NONE])
def test_csv_has_no_formula_however_a_spreadsheet_cuts_it(table: str, delimiter: str, quoting: int) -> None:
    rows = csv.reader(io.StringIO(table), delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    cells = [cell for row in rows for cell in row]
    assert [cell for cell in cells if cell.strip('" \u00a0\u2003\u3000').startswith(FORMULA)] == []


def test_csv_is_one_line_a_row_without_control_characters(table: str) -> None:
    assert is_quiet(table)
    assert len(table.splitlines()) == len(list(csv.reader(io.StringIO(table))))


# Terminal


def _console(**how: Any) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    made = Console()
    made.out = made.progress_to = RichConsole(file=stream, width=400, color_system=None, **how)
    return made, stream


def _on_one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_lines_and_tables_on_the_terminal_are_text() -> None:
    def is_text(payload: str) -> bool:
        console, stream = _console()
        console.say(payload)
        with console.stage(payload):
            pass
        console.table(payload, [payload, payload], [[payload, payload]])
        shown = _on_one_line(visible(payload, keep="")).strip()
        return is_quiet(stream.getvalue()) and _on_one_line(stream.getvalue()).count(shown) >= 3

    assert active(is_text) == []


def test_progress_on_the_terminal_is_text() -> None:
    def is_text(payload: str) -> bool:
        console, stream = _console(force_terminal=True)
        job = Job(payload, lambda report: "", lambda cause: "")
        with console.runs(1) as progress:
            progress.update(job, 0.5, payload)
            progress.bars.refresh()
            progress.update(job, 1.0, "done")
        redrawing = re.compile(r"\x1b\[(\?25[lh]|\d*[AK])|\r")  # rich's own
        shown = visible(payload, keep="") in stream.getvalue()
        return shown and is_quiet(redrawing.sub("", stream.getvalue()))

    assert active(is_text) == []


def test_errors_on_the_terminal_are_one_line_of_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(args: list[str]) -> int:
        raise UserError(args[0])

    def is_text(payload: str) -> bool:
        status, said = run_compare.main([payload]), capsys.readouterr().err
        return status == 2 and is_quiet(said) and said == f"error: {visible(payload, keep='')}\n"

    monkeypatch.setattr(run_compare, "_compare", refuse)
    assert active(is_text) == []


def test_warnings_on_the_terminal_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    def is_text(payload: str) -> bool:
        record = logging.LogRecord(
            "eval.directory.runs", logging.WARNING, __file__, 1, "%s is gone", (payload,), None
        )
        assert logging.lastResort is not None
        logging.lastResort.handle(record)
        said = capsys.readouterr().err
        return is_quiet(said) and said == f"{visible(payload, keep='')} is gone\n"

    quiet()
    assert active(is_text) == []


def test_the_help_page_shows_a_file_s_settings_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\x1b]0;title\x07\u202eevil"
    (tmp_path / "e.yaml").write_text(f'model: "{text.encode("unicode_escape").decode()}"\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        run_compare.main(["--config", str(tmp_path / "e.yaml"), "--help"])
    said = capsys.readouterr().out
    assert is_quiet(said)
    assert visible(text, keep="") in said
