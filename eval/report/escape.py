"""Text from models, files and users made harmless for the place it is shown in.

HTML needs no function here: Jinja's autoescape does it, after `visible`.
"""

from __future__ import annotations

import re
import unicodedata

# Format characters that ordinary text needs: joiners (Persian, Hindi, emoji) and Arabic signs that are drawn.
_HARMLESS_FORMAT = frozenset([0x200C, 0x200D, *range(0x600, 0x606), 0x6DD, 0x70F, 0x8E2])
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])  # control, format (bidi, tags), surrogate, separators
_FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
_BLOCK_START = re.compile(r"^(\d*)([-+.)](?=\s|$)|--|=)")  # a list, a rule or a heading's underline
_MARKDOWN_ACTIVE = re.compile(r"[\\*_\[\]~$#]")
_MARKDOWN_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}
_WORD_JOINER = "\u2060"


def visible(text: str, keep: str = "\n\t") -> str:
    r"""Control characters, bidi overrides and invisible marks written out (`\x1b`, `\u202e`), but those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep else _shown(char) for char in text)


def for_terminal(text: str, multiline: bool = False) -> str:
    """Text that cannot move the cursor, set a title or reverse its order: C0, C1, OSC and bidi are written out.

    Line breaks and tabs are kept only if `multiline`. Rich's own markup is another matter: use `rich.text.Text`.
    """
    return visible(text, keep="\n\t" if multiline else "")


def for_markdown(text: str) -> str:
    """One line of Markdown that shows exactly `text`: no markup, table pipe, HTML, link or mention is active."""
    line = visible(text.strip().replace("\r\n", "\n"), keep="\n").replace("\n", " ↵ ")
    line = re.sub(
        r"[&<>|`]", lambda match: _MARKDOWN_ENTITY[match[0]], _MARKDOWN_ACTIVE.sub(r"\\\g<0>", line)
    )
    line = _BLOCK_START.sub(r"\1\\\2", line)
    # GitHub links bare addresses even when they are escaped; only a character in between stops it.
    return re.sub(r"@|(?<=[a-zA-Z]):(?=\S)|\b[wW]{3}(?=\.)", rf"\g<0>{_WORD_JOINER}", line)


def fenced(text: str, language: str = "") -> str:
    """A Markdown code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def for_csv(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, "CSV injection"): a leading apostrophe is added."""
    shown = visible(text, keep="\n\t\r")
    return f"'{shown}" if _FORMULA.match(shown) else shown


def _shown(char: str) -> str:
    code = ord(char)
    if unicodedata.category(char) not in _HIDDEN or code in _HARMLESS_FORMAT:
        return char
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
