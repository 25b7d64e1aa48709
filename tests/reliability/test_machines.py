"""Whole programs on poor machines: no home folder, a read-only package, low limits, settings of JAX."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.training.runs import ROOT, arguments

NAMELESS = """import pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package next to which numba cannot write, not even as root."""
    place = tmp_path_factory.mktemp("package")
    for name in ("jaxcnn", "configs"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "main.py", place)
    (place / "jaxcnn" / "data" / "__pycache__").touch()
    (place / "sitecustomize.py").write_text(NAMELESS)
    return place


def start(package, folder, *prefix, source="synthetic:4", **variables):
    """(exit code, output, loss of the last training event) of a run with only these variables."""
    typed = arguments(epochs=0.5, data__source=source, log__tensorboard="true")
    command = [*prefix, sys.executable, package / "main.py", *typed, f"--workdir={folder / 'run'}"]
    libraries = os.pathsep.join([str(package), *(p for p in sys.path if "site-packages" in p)])
    always = {"PATH": os.environ["PATH"], "PYTHONPATH": libraries, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=always | variables, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    metrics = folder / "run" / "metrics.jsonl"
    events = (
        [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    losses = [event["loss"] for event in events if event["kind"] == "train"]
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout, losses[-1:]


@pytest.fixture(scope="module")
def expected(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    code, _, loss = start(package, folder, HOME=str(folder))
    assert code == 0
    return loss


@pytest.mark.slow
@pytest.mark.parametrize("home", [{}, {"HOME": "/proc/none"}, {"HOME": "/dev/null/home"}], ids=str)
def test_a_run_without_a_home(package, tmp_path, home):
    code, said, _ = start(package, tmp_path, source="tfds:digits", **home)
    assert code == 0, said
    assert said.count("cannot write to the folder for caches") == 1
    assert "prepared the handwritten digits in" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_ENABLE_X64": "1"},
        {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {"JAX_THREEFRY_PARTITIONABLE": "0"},
        {"PYTHONOPTIMIZE": "2"},
    ],
    ids=str,
)
def test_settings_do_not_change_a_run(package, expected, tmp_path, variables):
    code, said, loss = start(package, tmp_path, HOME=str(tmp_path), **variables)
    assert code == 0, said
    assert loss == expected
    assert ("is ignored" in said) == ("PYTHONOPTIMIZE" not in variables)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_an_absent_platform(package, tmp_path, platform):
    code, said, _ = start(package, tmp_path, HOME=str(tmp_path), JAX_PLATFORMS=platform)
    assert code == 1
    assert f"error: JAX_PLATFORMS={platform} cannot be used" in said
    assert "JAX finds cpu here" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "code", "text"),
    [
        ("ulimit -n 20", 1, "may open 20 files and needs 40"),
        ("ulimit -n 40", 0, ""),
        ("ulimit -v 2500000", 1, "too few to load TensorFlow and JAX"),
        ("ulimit -v 4000000", 0, ""),
    ],
)
def test_limits(package, tmp_path, limit, code, text):
    prefix = ["bash", "-c", f'{limit}; exec "$@"', "bash"]
    found, said, _ = start(package, tmp_path, *prefix, HOME=str(tmp_path))
    assert found == code, said
    assert text in said
