from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from eval import escape

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "[click](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "a | b | c",
    "a \\| b",
    "a \\\\| b",
    "`code` ``two``",
    "*a* **b** _c_ ~~d~~",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "---",
    "===",
    "> quote",
    "&lt;b&gt; &#124;",
    "<!-- comment",
    "line\nbreak\r\nand\rreturn",
    "```\nfence\n```",
    "    indented",
    "$x^2$",
    "tail\\",
]
TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    alphabet="ab|\\`*_[]()<>!#-+=.~$&;:/@wW1 \n\r\t", max_size=40
)


def parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def shown(text: str) -> str:
    """What `for_markdown` promises to show, but for spaces and the joiners that keep addresses from becoming links."""
    line = escape.visible(text.replace("\r\n", "\n"), keep="\n").strip().replace("\n", " ↵ ")
    return re.sub(r"\s+", " ", line).strip()


@pytest.mark.parametrize(
    "char", ["\x1b", "\x00", "\x07", "\x7f", "\x9b", "\r", "\u202e", "\u2066", "\u200b", "\ufeff"]
)
def test_control_and_invisible_characters_are_spelled_out(char: str) -> None:
    code = ord(char)
    spelled = f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
    assert escape.visible(f"a{char}b") == f"a{spelled}b"


@pytest.mark.parametrize("text", ["Grüße, 東京", "سلام می‌خواهم", "👩‍👩‍👧 🎬", "naïve − × ≥"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert escape.visible(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p\u200dpo", "p\\u200dpo"),
        ("p\u200cpo", "p\\u200cpo"),
        ("م\u200c", "م\\u200c"),
        ("م\u200cx", "م\\u200cx"),
        ("م\u200c\u200dم", "م\u200c\\u200dم"),
        ("👍\ufe0f\ufe0f", "👍\ufe0f\\ufe0f"),
        ("x\ufe0f", "x\\ufe0f"),
        ("1\ufe0f\u20e3", "1\ufe0f\u20e3"),
        ("a\u3164b\u115f", "a\\u3164b\\u115f"),
    ],
)
def test_joiners_and_selectors_stay_only_where_they_do_something(text: str, expected: str) -> None:
    assert escape.visible(text) == expected


@given(st.text())
def test_nothing_moves_the_terminal(text: str) -> None:
    safe = escape.for_terminal(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in safe)
    assert not set(safe) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def test_terminal_escapes_by_hand() -> None:
    assert escape.for_terminal("\x1b]0;title\x07 \x1b[2J") == "\\x1b]0;title\\x07 \\x1b[2J"
    assert escape.for_terminal("a\nb") == "a\\x0ab"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_is_text_in_a_cell_and_in_a_paragraph(text: str) -> None:
    check_cell(text)
    check_paragraph(text)


@given(TEXTS)
def test_any_text_is_one_table_cell(text: str) -> None:
    check_cell(text)


@given(TEXTS)
def test_any_text_is_one_paragraph(text: str) -> None:
    check_paragraph(text)


def check_cell(text: str) -> None:
    tokens = parser().parse(f"| a | b |\n| --- | --- |\n| {escape.for_markdown(text)} | end |\n")
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 2
    assert plain(cells[0]) == shown(text)
    assert plain(cells[1]) == "end"


def check_paragraph(text: str) -> None:
    tokens = parser().parse(f"before\n\n{escape.for_markdown(text)}\n")
    kinds = {token.type for token in tokens}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline"}
    assert "".join(plain(token) for token in tokens if token.type == "inline") == "before" + shown(text)


def plain(inline) -> str:  # type: ignore[no-untyped-def]
    """The text of an inline token, failing on anything that is more than text."""
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    text = "".join(child.content for child in inline.children).replace("\u2060", "")
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize(
    "text", ["see http://evil.example", "www.evil.example", "a@evil.example", "@you", "mailto:a@b.co"]
)
def test_addresses_are_broken_so_that_no_forge_links_them(text: str) -> None:
    safe = escape.for_markdown(text)
    assert not re.search(r"https?:/|www\.|@\w|mailto:\w", safe)


@given(TEXTS)
def test_a_fence_holds_whatever_it_holds(text: str) -> None:
    tokens = parser().parse(f"{escape.fenced(text, 'text')}\n\nafter\n")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content == escape.visible(text) + "\n"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1", "＝1", "﹦1", "\t1"]
)
def test_formulas_are_defused(text: str) -> None:
    assert escape.for_csv(text).startswith("'")


@pytest.mark.parametrize("text", ["a;=1", "a, =1", "a|-1", 'a"=1', "a\t=1", "a\n@x"])
def test_formulas_after_what_may_separate_cells_are_defused(text: str) -> None:
    assert re.search(r"'[=\-@]", escape.for_csv(text))


@pytest.mark.parametrize("text", ["ppo", "win_rate/dpo", "a=b", "a-b", "1e-5", ""])
def test_other_cells_are_left_alone(text: str) -> None:
    assert escape.for_csv(text) == text
