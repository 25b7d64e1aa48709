"""Every side file of a run in every damage: a line that names the file, or a recovery that is said."""

import os
import shutil

import pytest

from jaxcnn.cli.main import main
from tests.training.runs import arguments, assert_same_state, state_of

pytestmark = pytest.mark.slow

CONFIG = {
    "mesh__data": 1,
    "epochs": 2,
    "augment__mean": "rgb",
    "augment__statistics": "auto",
    "augment__scale": "(32,32)",
}


def damage(path, kind):
    """Damages a file in one way."""
    whole = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
        (path / "file").write_text("x")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path.name)
    else:
        content = {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "not UTF-8": b"\xff\xfe" + whole[2:],
            "zeros": bytes(len(whole)),
            "a list": b"[1, 2]\n",
            "an object": b"{}\n",
            "wrong types": b'{"starts": 3, "results": {}, "model": 7, "optim": [], "kind": 1}\n',
            "brackets": b"[" * 200_000,
            "another file": b"\x89PNG\r\n" + bytes(range(256)) * 4,
        }[kind]
        path.write_bytes(content)


KINDS = (
    "empty", "cut", "not UTF-8", "zeros", "a list", "an object", "wrong types", "brackets", "another file",
    "folder", "fifo",
)  # fmt: skip
# What a start of the run does about a damaged file.
ERRORS = ("config.json", "classes.txt")
RECOVERED = ("run.json", "report.json", "metrics.jsonl", "statistics.npz")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that has every side file."""
    folder = tmp_path_factory.mktemp("side") / "run"
    assert main(["train", *arguments(**CONFIG), f"--workdir={folder}"]) == 0
    command = ["evaluate", f"--workdir={folder}", "--protocol=centre scale=36", "--save_posteriors"]
    assert main(command) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ERRORS)
def test_a_start_names_a_damaged_file_that_it_needs(copied, capsys, name, kind):
    damage(copied / name, kind)
    assert main(["train", *arguments(**CONFIG), f"--workdir={copied}"]) == 1
    shown = capsys.readouterr().err
    assert str(copied / name) in shown
    assert "Traceback" not in shown


# An empty metrics.jsonl is that of a run without events.
@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for n in RECOVERED for k in KINDS if (n, k) != ("metrics.jsonl", "empty")],
)
def test_a_start_sets_a_damaged_file_aside_and_writes_it_again(copied, caplog, name, kind):
    before = state_of(copied)
    damage(copied / name, kind)
    assert main(["train", *arguments(**CONFIG), f"--workdir={copied}"]) == 0
    if (name, kind) == ("metrics.jsonl", "cut"):  # as by a kill, but too early
        assert "the events in between are lost" in caplog.text
    else:
        assert f"{name}.damaged" in caplog.text
        assert os.path.lexists(copied / f"{name}.damaged")
    assert (copied / name).is_file()
    assert_same_state(before, state_of(copied))
    caplog.clear()
    assert main(["train", *arguments(**CONFIG), f"--workdir={copied}"]) == 0
    assert ".damaged" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "classes.txt", "report.json", "statistics.npz"])
def test_an_evaluation_names_a_damaged_file(copied, capsys, name, kind):
    damage(copied / name, kind)
    assert main(["evaluate", f"--workdir={copied}", "--protocol=centre scale=34"]) == 1
    assert str(copied / name) in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_names_damaged_posteriors(copied, capsys, kind):
    (path,) = (copied / "posteriors").iterdir()
    assert main(["fuse", str(path)]) == 0
    damage(path, kind)
    assert main(["fuse", str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_a_lost_config_is_written_again_as_the_message_says(copied, capsys):
    """And the report is what it was."""
    (copied / "config.json").write_text("{")
    command = ["train", *arguments(**CONFIG), f"--workdir={copied}"]
    assert main(command) == 1
    assert "--print_config --json >" in capsys.readouterr().err
    assert main([*command, "--print_config", "--json"]) == 0
    (copied / "config.json").write_text(capsys.readouterr().out)
    assert main(command) == 0


def test_two_names_for_four_classes(copied, capsys):
    (copied / "classes.txt").write_text("cat\ndog\n")
    for command in ("evaluate", "predict"):
        options = ["--protocol=centre"] if command == "evaluate" else [__file__]
        assert main([command, f"--workdir={copied}", *options]) == 1
        assert "classes.txt has 2 names for the 4 classes" in capsys.readouterr().err
    assert main(["train", *arguments(**CONFIG), f"--workdir={copied}"]) == 1
    assert "classes" in capsys.readouterr().err
