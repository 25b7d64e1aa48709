"""The program jaxcnn: its commands, their help, completion, and the files of its wheel."""

import fnmatch
import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import setuptools
from PIL import Image
from setuptools.command.build_py import build_py

from jaxcnn.cli import main as cli
from jaxcnn.cli.exit_codes import exit_code
from jaxcnn.cli.main import COMMANDS, main
from jaxcnn.config import ConfigError
from jaxcnn.training import Diverged, Stopped
from tests.training.runs import arguments

ROOT = Path(__file__).parents[2]


def test_every_file_is_a_command():
    others = {"__init__", "main", "arguments", "exit_codes"}
    assert {p.stem for p in (ROOT / "jaxcnn" / "cli").glob("*.py")} - others == set(COMMANDS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Stopped("SIGTERM"), 143),
        (KeyboardInterrupt(), 130),
        (Diverged("loss is nan"), 3),
        (ConfigError("unknown key"), 2),
        (OSError("disk full"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_command_leaves_with_the_code_of_its_error(error, code, capsys):
    def work():
        raise error

    assert exit_code(work, kept="nothing is saved") == code
    shown = capsys.readouterr().err
    assert str(error) in shown
    assert ("nothing is saved" in shown) == (code in (130, 143))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_one_form(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: jaxcnn {command}")
    sentence = cli.sentence(cli.find(command)[1])
    assert text.index(sentence) < text.index("options:") < text.index("\nexample: ")
    example = text.partition("\nexample: ")[2]
    assert f"jaxcnn {command} " in example


def test_the_program_lists_commands_and_its_version(capsys):
    for flag, said in (("--help", COMMANDS), ("--version", ["jaxcnn 0."])):
        with pytest.raises(SystemExit) as stop:
            main([flag])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in said)


def test_an_unknown_command_is_a_usage_error():
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "invalid choice: 'trian'" in done.stderr


def test_main_py_is_train(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "program", seen.append)
    monkeypatch.setattr(sys, "argv", ["main.py", "--config=vgg_e"])
    runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
    assert seen == [["train", "--config=vgg_e"]]


def test_bash_completes(capsys):
    """The script that is printed, sourced by bash."""
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def complete(*words):
        line = " ".join(f"'{word}'" for word in words)
        ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _jaxcnn; echo "${{COMPREPLY[@]}}"'
        text = subprocess.run(
            ["bash", "--norc", "-c", f"{script}\n{ask}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return text.split()

    assert complete("jaxcnn", "sta") == ["statistics"]
    assert complete("jaxcnn", "evaluate", "--wo") == ["--workdir="]
    assert complete("jaxcnn", "evaluate", "--js") == ["--json"]
    assert complete("jaxcnn", "check", "vgg_a") == ["vgg_a", "vgg_a_lrn"]
    assert complete("jaxcnn", "bench", "lo") == ["loop"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_scripts(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--save_posteriors" in script
    assert "complete" in script


def test_the_wheel_holds_all_packages_and_configs(monkeypatch):
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: found.update(settings))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    folders = {"/".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("jaxcnn/**/*.py")}
    folders |= {"jaxcnn/configs", "jaxcnn/configs/comparisons"}
    assert {name.replace(".", "/") for name in found["packages"]} == folders
    assert found["package_dir"] == {"jaxcnn.configs": "configs"}
    build = build_py(setuptools.Distribution(found | {"script_name": "setup.py"}))
    build.ensure_finalized()
    files = {Path(file) for _, _, file in build.find_all_modules()}
    assert {path.relative_to(ROOT) for path in ROOT.glob("configs/**/*.py")} < files
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"jaxcnn": "jaxcnn.cli.main:program"}


def test_the_source_archive_holds_what_a_clone_has():
    """MANIFEST.in names every file of the repository outside the packages, except hidden ones."""
    lines = (ROOT / "MANIFEST.in").read_text().split("\n")
    named = [
        word for line in lines if line.startswith(("include", "graft")) for word in line.split()[1:]
    ]
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    # setuptools adds these by itself.
    always = ["jaxcnn", "pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"]
    tops = {name.partition("/")[0] for name in listed if name and not name.startswith(".")}
    assert not [t for t in tops if not any(fnmatch.fnmatch(t, n) for n in (*named, *always))]
    assert all(list(ROOT.glob(name)) for name in named)


MINE = """from configs import vgg_a

def get_config():
    return vgg_a.get_config()
"""
AUTHOR = ["-c", "user.name=a", "-c", "user.email=a@example.org"]


@pytest.mark.slow  # installs with pip, which fetches setuptools
def test_installed_from_a_wheel_and_started_elsewhere(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    installed = [p for p in sys.path if p.endswith("site-packages")]
    (site / "base.pth").write_text("\n".join(installed))
    source = tmp_path / "source"
    source.mkdir()
    archive = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(lambda name: name and (ROOT / name).is_file(), archive):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", source]
    subprocess.run(pip, cwd=tmp_path, check=True)
    program = tmp_path / "venv" / "bin" / "jaxcnn"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "configs").mkdir(parents=True)
    (elsewhere / "configs" / "mine.py").write_text(MINE)
    Image.new("RGB", (40, 40)).save(elsewhere / "image.png")
    tiny = arguments(epochs=0.25)
    listed = ["--out=grid", "--list", "--config.data.source=synthetic:10"]
    two = ["--variant=base", "--variant=other: schedule.rate=0.001", "--seeds=0"]
    for command in (
        ["init"],
        ["add", "elsewhere"],
        [*AUTHOR, "commit", "--quiet", "-m", "another project"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    for command, said in (
        (["check", "vgg_e"], "train step"),
        (["train", "--config=quickstart", "--print_config"], "batch_size = 32"),
        (["train", "--config=configs/vgg_a.py", "--print_config"], "model.column = 'A'"),
        (["chain", "vgg_d", "--list"], "s256_512"),
        (["summary", "alexnet"], "parameters"),
        (["check", "configs/mine.py"], "train step"),
        (["compare", "configs/comparisons/cifar10.py", *listed], "to do"),
        (["train", *tiny, "--workdir=run"], "jaxcnn predict --workdir=run"),
        (["predict", "--workdir=run", "image.png"], "image.png"),
        (["compare", "quickstart", "--out=two", *two, *tiny[1:]], "table.md"),
    ):
        done = subprocess.run(
            [program, *command], cwd=elsewhere, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    (start,) = json.loads((elsewhere / "run" / "run.json").read_text())["starts"]
    assert (start["git_commit"], start["git_modified"]) == ("", False)
