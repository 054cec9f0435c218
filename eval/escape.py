"""Text from models, files and users made harmless for the place it is shown in.

HTML needs no function here: Jinja's autoescape does it, after `visible`.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])  # control, format (bidi, tags), surrogate, separators
_DRAWN_FORMAT = frozenset([*range(0x600, 0x606), 0x6DD, 0x70F, 0x8E2])  # Arabic and Syriac signs
# Letters and marks that draw nothing (Unicode's Default_Ignorable_Code_Point, what `_HIDDEN` has not).
_BLANK = frozenset(
    [0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180F, 0x2065, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9)]
)
_JOINERS = frozenset([0x200C, 0x200D])  # Persian, Hindi, emoji
_SELECTORS = frozenset([*range(0x180B, 0x180E), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
_KEYCAPS = frozenset("0123456789#*")  # the ASCII that a variation selector may follow

_FORMULA = "=+\\-@＝＋－＠﹦﹢﹣﹫"
_LEADING_FORMULA = re.compile(rf"\s*[{_FORMULA}\t\r]")
# Spreadsheets of other countries cut lines at semicolons or tabs, whatever the quotes say.
_INNER_FORMULA = re.compile(rf"(?<=[;,|\"'\s])(?=[{_FORMULA}])")
_BLOCK_START = re.compile(r"^(\d*)([-+.)](?=\s|$)|--|=)")  # a list, a rule or a heading's underline
_MARKDOWN_ACTIVE = re.compile(r"[\\*_\[\]~$#]")
_MARKDOWN_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}
# Forges link bare addresses, mentions and numbers, and draw :names:, even where they are escaped.
_MARKDOWN_LINKED = re.compile(r"@|(?<!&)#(?=\w)|!(?=\d)|(?<=[a-zA-Z]):(?=\S)|:(?=[a-zA-Z+-])|\b[wW]{3}(?=\.)")
_WORD_JOINER = "\u2060"


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Control characters, bidi overrides and invisible marks written out (`\x1b`, `\u202e`), but those in `keep`.

    Joiners and variation selectors stay where scripts and emoji need them: one, after something that is drawn.
    """
    if text.isascii() and text.isprintable():
        return text
    around = zip(text, f" {text}", f"{text} "[1:], strict=False)
    return "".join(
        char if char in keep or _is_drawn(char, before, after) else _written_out(char)
        for char, before, after in around
    )


def for_terminal(text: str) -> str:
    """Text that cannot move the cursor, set a title or reverse its order: C0, C1, OSC and bidi are written out, line breaks
    and tabs, too.

    Rich's own markup is another matter: use `rich.text.Text`.
    """
    return visible(text, keep="")


def for_markdown(text: str) -> str:
    """One line of Markdown that shows exactly `text`: no markup, table pipe, HTML, link or mention is active."""
    line = visible(text.replace("\r\n", "\n"), keep="\n").strip().replace("\n", " ↵ ")
    line = re.sub(
        r"[&<>|`]", lambda match: _MARKDOWN_ENTITY[match[0]], _MARKDOWN_ACTIVE.sub(r"\\\g<0>", line)
    )
    line = _BLOCK_START.sub(r"\1\\\2", line)
    return _MARKDOWN_LINKED.sub(rf"\g<0>{_WORD_JOINER}", line)


def fenced(text: str, language: str = "") -> str:
    """A Markdown code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def for_csv(text: str) -> str:
    """A cell of one line that no spreadsheet takes for a formula (OWASP, "CSV injection"): an apostrophe goes before."""
    harmless = _INNER_FORMULA.sub("'", text)
    return visible(f"'{harmless}" if _LEADING_FORMULA.match(text) else harmless, keep="")


def _is_drawn(char: str, before: str, after: str) -> bool:
    """Whether a reader can see `char` between its neighbours, or needs it to see them right."""
    code = ord(char)
    if code in _JOINERS:
        return (_is_text(before) or ord(before) in _SELECTORS) and not after.isascii()
    if code in _SELECTORS:
        return _is_text(before) or before in _KEYCAPS
    return code not in _BLANK and (unicodedata.category(char) not in _HIDDEN or code in _DRAWN_FORMAT)


def _is_text(char: str) -> bool:
    """Whether a joiner or a selector may follow: something drawn, of a script beyond ASCII."""
    if char.isascii() or ord(char) in _BLANK | _SELECTORS:
        return False
    return unicodedata.category(char) not in _HIDDEN


def _written_out(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
