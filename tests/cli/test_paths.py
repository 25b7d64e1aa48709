"""Paths that users type."""

from pathlib import Path

import pytest

from jaxcnn.cli.arguments import path
from jaxcnn.cli.main import command_parser, find
from jaxcnn.paths import user_path


def test_a_user_path_is_absolute_and_only_its_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/x") == Path("/home/me/x")
    assert user_path("a/~/[x]*") == tmp_path / "a" / "~" / "[x]*"
    assert user_path(Path("/x")) == Path("/x")
    with pytest.raises(ValueError, match="the ~ of '~nobody-here/x' cannot be expanded"):
        user_path("~nobody-here/x")
    with pytest.raises(ValueError, match="the path is empty"):
        user_path("")


def test_every_argument_that_is_a_path_expands_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    typed = {
        "prepare": ("tars", "data_dir", "out"),
        "statistics": ("out",),
        "plan": ("hlo",),
        "views": ("out",),
        "train": ("workdir",),
        "chain": ("workdir",),
        "compare": ("out", "publish"),
        "evaluate": ("workdir",),
        "fuse": ("files", "out"),
        "table": ("runs", "out"),
        "predict": ("workdir",),
        "figures": ("workdir", "out"),
        "export": ("run", "out", "classes"),
    }
    for command, wanted in typed.items():
        parser = command_parser(*find(command)[:2])
        types = {action.dest: action.type for action in parser._actions}
        assert [name for name in wanted if types[name] is not path] == [], command
    assert path("~/x") == Path("/home/me/x")


@pytest.mark.parametrize("argument", ["--workdir=", "--workdir=~nobody-here/x"])
def test_a_path_that_cannot_be_meant_is_a_usage_error(argument, capsys):
    with pytest.raises(SystemExit):
        command_parser(*find("train")[:2]).parse_args([argument])
    assert "argument --workdir: the " in capsys.readouterr().err
