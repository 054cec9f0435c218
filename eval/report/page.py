"""Writes a comparison's report: figures, tables, report.md and a report.html that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import escape
from eval import format as fmt
from eval.report.document import Document, Section
from eval.report.figures import theme
from eval.report.inputs import BASE, ReportInput
from eval.report.numbers.frames import Evaluations, evaluations
from eval.report.numbers.standings import standings
from eval.report.sections import answers, details, next_steps, outcomes, tuning

if TYPE_CHECKING:
    from jinja2 import Environment
    from pandas import DataFrame

TEMPLATES = Path(__file__).parent
_DRAWING = ".report.drawing"
"""Where a report is drawn. A report that is killed leaves it behind, the next one removes it."""


class Markdown(str):
    """Markdown that is already escaped, so that the template's escaping leaves it alone."""


def write_report(comparison: ReportInput, directory: Path) -> Path:
    """Write results.csv, results.parquet, figures/, report.md and report.html; returns the last one's path.

    The same comparison gives the same bytes. Files are drawn beside and renamed once all are there: a reader never sees half
    of one, and a report that fails leaves the one before. They are not synced, as they can be drawn again.
    """
    made = directory / _DRAWING
    _remove(made)
    try:
        (made / "figures").mkdir(parents=True)
        _draw(comparison, made)
        _take_over(made, directory)
    finally:
        _remove(made)
    return directory / "report.html"


def compose(comparison: ReportInput, view: Evaluations, look: dict[str, theme.Style]) -> Document:
    """All sections in reading order. Figures are drawn here: call inside `theme.drawing()`."""
    found = standings(view)
    sections: list[Section] = [
        *outcomes.sections(comparison, view, look, found),
        answers.section(comparison, view),
        outcomes.training(comparison, look),
        *filter(None, [tuning.section(comparison)]),
        details.data(comparison),
        details.runs(view),
        details.configuration(comparison),
        details.definitions(view),
        next_steps.section(comparison, view, found),
    ]
    return Document(_title(comparison, view), _subtitle(comparison, view), tuple(sections))


def html(document: Document, look: dict[str, theme.Style], figures: Path) -> str:
    """One page with everything inside; only its own style sheet and embedded images are allowed to load."""
    arms = {arm: f"arm-{number}" for number, arm in enumerate([BASE, *look])}
    colours = {"arm-0": theme.BASE_COLOUR} | {arms[arm]: style.colour for arm, style in look.items()}
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    style += "".join(f".{name}::before{{background:{colour}}}\n" for name, colour in colours.items())
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = _environment(autoescape=True, finalize=_visible)
    return environment.get_template("report.html.jinja").render(
        document=document,
        arms=arms,
        style=_trusted(style),
        digest=digest,
        image=lambda stem: _image(figures, stem),
    )


def markdown(document: Document) -> str:
    """The same document for readers of plain text and for forges; pictures are the files in figures/."""
    environment = _environment(autoescape=False, finalize=_markdown)
    environment.filters["fenced"] = lambda text, language="": Markdown(escape.fenced(text, language))
    environment.filters["rule"] = lambda column: Markdown("---:" if column.numeric else ":---")
    return environment.get_template("report.md.jinja").render(document=document)


def _draw(comparison: ReportInput, directory: Path) -> None:
    """All files, into a directory that has an empty figures/."""
    figures = directory / "figures"
    _write_results(comparison.results, directory)
    view = evaluations(comparison)
    look = theme.styles(view.arms)
    with theme.drawing():
        document = compose(comparison, view, look)
        for picture in (picture for section in document.sections for picture in section.pictures):
            theme.save(picture.figure, figures, picture.stem)
    (directory / "report.md").write_text(markdown(document), encoding="utf-8")
    (directory / "report.html").write_text(html(document, look, figures), encoding="utf-8")


def _take_over(made: Path, directory: Path) -> None:
    """Every file of `made` in place of the one before; figures of an earlier report go last, as no file shows them then."""
    figures = directory / "figures"
    figures.mkdir(exist_ok=True)
    drawn = {file.name for file in (made / "figures").iterdir()}
    for file in sorted(file for file in made.rglob("*") if file.is_file()):
        os.replace(file, directory / file.relative_to(made))
    for old in figures.iterdir():
        if old.suffix in (".svg", ".png") and old.name not in drawn:
            old.unlink()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _title(comparison: ReportInput, view: Evaluations) -> str:
    task = comparison.facts.get("task") or comparison.path.name
    if len(view.arms) > 5:
        algorithms = list(dict.fromkeys(view.arms.values()))
        return f"{task}: {len(view.arms)} arms of {fmt.listing(algorithms, 6)} compared"
    return f"{task}: {fmt.listing(list(view.arms), 5)}{' compared' if len(view.arms) > 1 else ''}"


def _subtitle(comparison: ReportInput, view: Evaluations) -> str:
    count, seeds = len(view.arms), view.runs["seed"].nunique()
    parts = [f"{fmt.counted(count, 'arm')} × {fmt.counted(seeds, 'seed')}"]
    if comparison.facts.get("budget"):
        parts.append(f"budget {fmt.in_powers(str(comparison.facts['budget']))} a run")
    if comparison.environment.get("finished"):
        parts.append(f"finished {fmt.moment(str(comparison.environment['finished']))}")
    return " · ".join(parts)


def _environment(autoescape: bool, finalize: Callable[[Any], Any]) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=autoescape, finalize=finalize, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _visible(value: Any) -> Any:
    """Before HTML escaping: every string but trusted markup has its control characters spelled out."""
    ours = hasattr(value, "__html__") or not isinstance(value, str)
    return value if ours else escape.visible(str(value))


def _markdown(value: Any) -> Any:
    ours = isinstance(value, Markdown) or not isinstance(value, str)
    return value if ours else escape.for_markdown(str(value))


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _image(figures: Path, stem: str) -> str:
    encoded = base64.b64encode((figures / f"{stem}.svg").read_bytes()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


def _write_results(results: DataFrame, directory: Path) -> None:
    from pandas.api.types import is_numeric_dtype

    texts = [column for column in results.columns if not is_numeric_dtype(results[column])]
    safe = results.assign(
        **{column: results[column].map(escape.for_csv, na_action="ignore") for column in texts}
    ).rename(columns=escape.for_csv)
    safe.to_csv(directory / "results.csv", index=False, lineterminator="\n")
    results.to_parquet(directory / "results.parquet", index=False)
