"""What is shown is never fatal: output that nobody reads, has no room, or was closed."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from jaxcnn.cli.main import main
from jaxcnn.streams import SafeStream, safe
from jaxcnn.training import run
from jaxcnn.training.console import Console
from jaxcnn.training.signals import StopSignal
from tests.training.runs import config
from tests.training.stalled import send


@pytest.fixture
def broken_pipe():
    """A text stream to a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    yield stream
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.fixture
def full():
    """A text stream to a device without room."""
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    yield stream
    with pytest.raises(OSError, match="No space left"):
        stream.close()


def test_a_console_survives_a_pipe_without_a_reader(broken_pipe):
    console = Console(broken_pipe)
    for _ in range(3):
        console.line("x" * 10_000)
        console.progress("y", last=True)
    assert console.stream.error.errno == errno.EPIPE
    assert console.stream.lost_reader()


def test_a_stream_keeps_its_error(full):
    for inner, code in ((full, errno.ENOSPC), (None, errno.EBADF)):
        stream = SafeStream(inner)
        print("text", file=stream, flush=True)
        assert stream.error.errno == code
        assert not stream.lost_reader()
        assert not stream.isatty()
        assert safe(stream) is stream


def test_a_stop_does_not_wait_for_a_reader_that_pauses():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with StopSignal() as stop_signal, os.fdopen(writer, "w") as stream:
        console = Console(stream)
        timer = threading.Timer(0.3, send)
        timer.start()
        console.line("a line")
        assert stop_signal.signal == "SIGTERM"
    assert isinstance(console.stream.error, BlockingIOError)
    os.close(reader)


def test_characters_that_a_locale_lacks_are_escaped(tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        print("größer \udcff", file=SafeStream(file))
    assert (tmp_path / "out").read_text() == "gr\\xf6\\xdfer \\udcff\n"


@pytest.mark.slow  # programs without a terminal are in tests/reliability/test_stops.py
def test_a_run_without_a_terminal_writes_its_files(tmp_path, monkeypatch, broken_pipe):
    monkeypatch.setattr(sys, "stdout", broken_pipe)
    report = run(config(epochs=0.25), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "code"), [(["summary", "alexnet"], 1), (["train", "--print_config"], 0)]
)
def test_a_lost_result_is_an_error_where_no_file_has_it(arguments, code, monkeypatch, capsys, full):
    monkeypatch.setattr(sys, "stdout", full)
    assert main(arguments) == code
    said = "error: the result cannot be written to standard output ([Errno 28] No space left on device)\n"
    assert capsys.readouterr().err == (said if code else "")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("completion bash | true", 0, ""),
        ("completion bash >&-", 1, "Bad file descriptor"),
        ("completion bash >/dev/full 2>&-", 1, ""),
        ("--help >/dev/full", 1, "No space left on device"),
    ],
)
def test_the_program_ends_without_a_traceback(command, code, said):
    script = f'set -o pipefail; "$0" -m jaxcnn {command}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)
