"""A finished run in a bucket: every command that reads it prints and writes what it does on a disk."""

import contextlib
import importlib.util
import re
import shutil

import pytest
from PIL import Image

from jaxcnn import object_store
from jaxcnn.cli.main import main
from jaxcnn.files import FileError
from jaxcnn.folders import files_in
from jaxcnn.paths import user_path
from jaxcnn.training.imported_run import write_imported
from jaxcnn.training.load_run import load
from tests.evaluation.small import pixels_of
from tests.research.untrained import untrained
from tests.training.runs import assert_same_state
from tests.weights.drawn import drawn_weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def both(finished, bucket, tmp_path):
    """The same run on a disk and in a bucket."""
    local, remote = shutil.copytree(finished, tmp_path / "run"), user_path(str(bucket / "run"))
    for file in files_in(local):
        object_store.write(remote.joinpath(*file.relative_to(local).parts), file.read_bytes())
    return local, remote


def contents(folder):
    return {str(f)[len(str(folder)) :]: f.read_bytes() for f in files_in(folder)}


def said(capsys, place, *arguments):
    """What a command prints and writes to stderr, with the path of the run replaced, without times."""
    assert main([text.replace("RUN", str(place)) for text in arguments]) == 0
    out, err = capsys.readouterr()
    lines = (out + err).replace(str(place), "RUN").splitlines()
    return [
        re.sub(r"(,? +(in|after) [0-9.]+|  [0-9]+ images/s).*", "", line)
        for line in lines
        if "compil" not in line
    ]


QUICK = (
    ("evaluate", "RUN", "--protocol=centre scale=40", "--save_posteriors", "--json"),
    ("table", "protocols", "RUN", "--out=RUN/tables"),
    ("fuse", "RUN/posteriors/centre_40_32.evaluation.step_7.npz", "--out=RUN/a/mean.npz"),
)
ALL = (
    ("evaluate", "RUN", "--protocol=ten_crops scale=40", "--save_posteriors", "--json"),
    ("evaluate", "RUN", "--protocol=ten_crops scale=40"),
    ("table", "vgg3", "RUN", "--list"),
    ("predict", "--workdir=RUN", "IMAGE", "--json"),
    ("figures", "RUN", "--images=2", "--training_images=8"),
    ("export", "RUN", "--format=npz", "--out=RUN/a.npz", "--json"),
    ("export", "RUN", "--format=stablehlo", "--out=RUN/program", "--json"),
    ("export", "RUN", "--format=safetensors", "--out=RUN/a.safetensors"),
    (
        "views",
        "quickstart",
        "data.source=synthetic:4",
        "--images=1",
        "--views=1",
        "--out=RUN/v.png",
    ),
    ("statistics", "quickstart", "data.source=synthetic:4", "--out=RUN/s.npz"),
)


@pytest.mark.parametrize("commands", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)])
def test_commands(both, tmp_path, capsys, commands):
    (local, remote), image = both, str(tmp_path / "image.png")
    Image.fromarray(pixels_of(50, 70)).save(image)
    for command in commands:
        typed = [text.replace("IMAGE", image) for text in command]
        first, second = (said(capsys, place, *typed) for place in both)
        assert first == second
        assert first
    ours, theirs = contents(local), contents(remote)
    assert ours.keys() == theirs.keys()
    # The JSON in a program names its time; the rest is equal byte by byte.
    assert [n for n in ours if ours[n] != theirs[n]] in ([], ["/program/program.stablehlo"])
    assert any(name.startswith("/posteriors/") for name in ours)


def test_imported_weights(bucket, tmp_path):
    """A folder is written whole, config.json last, and read like one on a disk; a kill leaves no run."""
    weights, folder = drawn_weights(), user_path(str(bucket / "vgg"))
    write_imported(folder, weights)
    write_imported(tmp_path / "vgg", weights)
    ours, theirs = contents(tmp_path / "vgg"), contents(folder)
    assert ours == theirs
    assert len(ours) == 4
    a, b = (load(str(place)) for place in (tmp_path / "vgg", folder))
    assert_same_state(a.variables, b.variables)
    assert a.origin == b.origin
    with pytest.raises(FileError, match=r"gs://.*/vgg exists already"):
        write_imported(folder, weights)
    object_store.delete(folder / "config.json")
    with pytest.raises(FileError, match=r"config\.json is missing"):
        load(str(folder))


def failed(capsys, *arguments):
    """The last line that a command prints when it fails."""
    with contextlib.suppress(SystemExit):  # of argparse
        assert main(arguments) in (1, 2)
    return capsys.readouterr().err.splitlines()[-1]


def test_bad_paths(bucket, bucket_proxy, monkeypatch, capsys):
    evaluate, weights = ("evaluate", "--protocol=centre"), str(bucket / "vgg.pth")
    object_store.write(bucket / "vgg.pth", b"\0" * 100)
    assert "holds no run (no config.json, or" in failed(capsys, *evaluate, "gs://no-such/run")
    assert "holds no run" in failed(capsys, *evaluate, str(bucket))
    for command in (evaluate, ("inspect",), ("import", "--out=a")):
        assert "a weights file cannot be in a bucket" in failed(capsys, *command, weights)
    assert "with two slashes" in failed(capsys, *evaluate, "gs:/bucket/run")
    assert "s3:// is not served" in failed(capsys, *evaluate, "s3://bucket/run")
    assert "no such bucket: make it" in failed(capsys, "fuse", "a.npz", "--out=gs://no-such/b.npz")
    assert "a config file, which is" in failed(capsys, "check", "gs://bucket/vgg.py")
    options = ("data.data_dir=s3://a/b", "data.source=folder:gs://bucket/a")
    printed = [failed(capsys, "check", "quickstart", option) for option in options]
    assert "data.data_dir: s3:// is not served" in printed[0]
    assert "data.source: a folder of images is read from a disk" in printed[1]
    bucket_proxy.status = 403
    for command in ((*evaluate, str(bucket / "run")), ("fuse", str(bucket / "a.npz"))):
        assert "gcloud auth application-default login" in failed(capsys, *command)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert "pip install 'jaxcnn[gcs]'" in failed(capsys, *evaluate, weights)
