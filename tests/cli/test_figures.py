"""jaxcnn figures on a trained run: files, their paths, and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.main import main
from jaxcnn.research.figures.run_figures import FIGURES


@pytest.fixture
def trained(trained_runs):
    return Path(trained_runs[0])


def test_all_figures(trained, monkeypatch, capsys):
    """Their paths are printed, one a line."""
    monkeypatch.chdir(trained.parent)
    assert main(["figures", f"--workdir={trained.name}", "--training_images=16", "--images=2"]) == 0
    paths = [f"{trained}/figures/{name}.png" for name in FIGURES]
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.endswith(".png")] == paths
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
        assert pixels.shape[1] <= 1200


def test_some_figures_of_some_images(trained, tmp_path, capsys):
    arguments = [
        f"--workdir={trained}",
        f"--out={tmp_path}",
        "--only=guesses,kernels",
        "--ids=3,17",
    ]
    assert main(["figures", *arguments]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if line.endswith(".png")] == [
        str(tmp_path / "guesses.png"),
        str(tmp_path / "kernels.png"),
    ]
    assert len(list(tmp_path.iterdir())) == 2
    with Image.open(tmp_path / "guesses.png") as image:
        assert image.width == 600  # two of four


def test_kernels_need_no_data(trained, tmp_path, capsys):
    arguments = [f"--workdir={trained}", f"--out={tmp_path}", "data.source=folder:nowhere"]
    assert main(["figures", *arguments, "--only=kernels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [str(tmp_path / "kernels.png")]
    assert main(["figures", *arguments, "--only=guesses"]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--ids=3,64,-1"],
            1,
            "no images of evaluation have the ids 64, -1: give ids from 0 to 63",
        ),
        (["--scale=31"], 1, "is smaller than the net's images of 32 x 32"),
        (["model.width=1"], 2, "only data can be overridden in a trained run"),
        (["data.nosuch=1"], 2, "nosuch"),
        (["data.source=synthetic:5"], 1, "was trained on 4 classes"),
        (
            ["--only=kernel,guesses"],
            2,
            "unknown figure 'kernel'; did you mean kernels? (valid: kernels, ",
        ),
        (["--step=3"], 1, "no checkpoint 3"),
        (["--only=kernels", "--out=/proc/nowhere"], 1, "/proc/nowhere"),
    ],
)
def test_bad_input(arguments, code, said, trained, tmp_path, capsys):
    out = tmp_path / "figures"
    assert main(["figures", f"--workdir={trained}", f"--out={out}", *arguments]) == code
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--images=0", "--images: must be 1 or more, got 0"),
        ("--training_images=-1", "--training_images: must be 0 or more, got -1"),
        ("--ids=3,x", "expected numbers such as 3,17; got '3,x'"),
    ],
)
def test_bad_usage(option, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["figures", "--workdir=x", option])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
