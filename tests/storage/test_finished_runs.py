"""A finished run in a bucket: every command that reads it prints and writes what it does on a disk."""

import shutil

import pytest
from PIL import Image

from jaxcnn import object_store
from jaxcnn.cli.main import main
from jaxcnn.folders import files_in
from jaxcnn.paths import user_path
from tests.evaluation.small import pixels_of
from tests.research.untrained import untrained


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
    return [line.partition("  in ")[0] for line in lines if "compil" not in line]


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
