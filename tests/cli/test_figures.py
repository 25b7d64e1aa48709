"""jaxcnn figures on a run that was trained: files, their paths, and what cannot be drawn."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.figures import main
from jaxcnn.training import run
from tests.training.runs import config

ROOT = Path(__file__).parents[2]
NAMES = ["kernels", "guesses", "neighbours", "score_maps"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "tiny"
    run(config(epochs="1", mesh__data="1"), folder, command=["jaxcnn", "train"])
    return folder


def test_as_a_user_starts_it(trained):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", "figures", "--workdir=tiny", "--training_images=40"],
        cwd=trained.parent,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = [f"tiny/figures/{name}.png" for name in NAMES]
    assert [line for line in done.stdout.splitlines() if line.endswith(".png")] == paths
    for path in paths:
        with Image.open(trained.parent / path) as image:
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
    assert main(arguments) == 0
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
    assert main([*arguments, "--only=kernels"]) == 0
    assert main([*arguments, "--only=guesses"]) == 1
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
        (["--step=3"], 1, "no checkpoint 3"),
        (["--only=kernels", "--out=/proc/nowhere"], 1, "/proc/nowhere"),
    ],
)
def test_bad_input(arguments, code, said, trained, tmp_path, capsys):
    out = tmp_path / "figures"
    assert main([f"--workdir={trained}", f"--out={out}", *arguments]) == code
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "--only=kernel,guesses",
            "unknown kernel (valid: kernels, guesses, neighbours, score_maps)",
        ),
        ("--images=0", "--images: must be 1 or more, got 0"),
        ("--training_images=-1", "--training_images: must be 0 or more, got -1"),
        ("--ids=3,x", "expected numbers such as 3,17; got '3,x'"),
    ],
)
def test_bad_usage(option, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--workdir=x", option])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
