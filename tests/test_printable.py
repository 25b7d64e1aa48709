"""Names of files and classes on screens and in commands."""

import io
import logging
import subprocess

import pytest

from jaxcnn.cli.exit_codes import fail
from jaxcnn.printable import PrintableFormatter, printable, printable_name, say, shell_quote
from jaxcnn.training.console import Console

# Renames the window, colours the rest, forges a line, rubs out a letter, and is not UTF-8.
HOSTILE = "\x1b]0;t\x07\x1b[31m\nerror: all is lost\r\b\x85\u2028\u202e\udcff.jpg"
ESCAPED = r"\x1b]0;t\x07\x1b[31m\x0aerror: all is lost\x0d\x08\u0085\u2028\u202e\xff.jpg"


def test_control_characters_are_escaped_and_other_names_are_not():
    assert printable_name(HOSTILE) == ESCAPED
    assert printable(HOSTILE) == ESCAPED.replace(r"\x0a", "\n")
    for name in ("zürich 1 'x'.jpg", "猫", "cafe\u0301", "क्षि", "👩\u200d🔬", "a\\x1b"):
        assert printable_name(name) == name


def test_what_leaves_is_printable(capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, line = Terminal(), ESCAPED.replace(r"\x0a", "\n")
    say(HOSTILE, terminal)
    Console(terminal).line(HOSTILE)
    assert terminal.getvalue() == f"{line}\n" * 2
    Console(terminal).progress(HOSTILE, last=True)
    assert terminal.getvalue().count("\x1b") == 1  # its own
    assert fail("error", HOSTILE, 1) == 1
    assert capsys.readouterr().err == f"error: {line}\n"
    record = logging.LogRecord("jaxcnn", logging.WARNING, "", 0, "bad %s", (HOSTILE,), None)
    assert PrintableFormatter("%(levelname)s: %(message)s").format(record) == f"WARNING: bad {line}"


@pytest.mark.parametrize("name", ["plain", "a b", "it's $HOME", "x;rm -rf ~", HOSTILE, "é\\'\x1b"])
def test_a_quoted_name_is_that_name_for_a_shell(name):
    quoted = shell_quote(f"--out={name}")
    assert quoted.isprintable()
    echoed = subprocess.run(
        ["bash", "-c", b"printf %s " + quoted.encode()],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert echoed.stdout == f"--out={name}".encode(errors="surrogateescape")
