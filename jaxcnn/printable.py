"""Text that holds names of files and classes, made safe to print and to type.

A name is bytes of somebody else's choice. Control characters in it could move the cursor, rename the window
or forge lines of output; bytes that are not UTF-8 cannot be printed at all.
"""

import logging
import shlex
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

# Characters that change the direction of the text around them.
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def is_control(character: str) -> bool:
    """Whether a terminal obeys a character, or it breaks lines, or it stands for a byte that is not UTF-8."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")


def printable(text: str, keep: str = "\n\t") -> str:
    """Returns `text` with its control characters, except for those in `keep`, as escapes such as \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep else _escaped(c) for c in text)


def printable_name(name: str) -> str:
    """Returns the name of a file or a class as `printable` does, on one line."""
    return printable(name, keep="")


def _escaped(character: str) -> str:
    code = ord(character)
    if not is_control(character) and character not in _BIDIRECTIONAL:
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        code -= 0xDC00
        return f"\\x{code:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def shell_quote(text: str) -> str:
    """Returns `text` as one word of a command for a shell; names that cannot be printed as bash's $'...'."""
    if printable_name(text) == text:
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable_name(quoted)}'"


def shell_join(words: Iterable[str]) -> str:
    """Returns `words` as a command that can be typed."""
    return " ".join(map(shell_quote, words))


def say(text: str, file: Any = None) -> None:
    """Prints a line, or several, on standard output or on `file`, with control characters escaped."""
    print(printable(text), file=file or sys.stdout, flush=True)


class PrintableFormatter(logging.Formatter):
    """Formats a log record, and makes it printable."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
