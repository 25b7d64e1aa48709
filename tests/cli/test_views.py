"""jaxcnn views: its image file and its errors."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.main import main

SMALL = ["data.source=synthetic:4", "model.image_size=96", "data.seed=7"]


def test_the_image_file(tmp_path, capsys):
    out = tmp_path / "new" / "views.png"
    command = ["alexnet", *SMALL, f"--out={out}"]
    assert main(["views", *command, "--images=2", "--views=3"]) == 0
    assert f"2 x 3 views of synthetic:4 in {out}" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.width > image.height > 100
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 1000
    assert main(["views", *command, "--images=1", "--views=2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"file": str(out), "source": "synthetic:4", "images": 1, "views": 2}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch"], 2, "no config file 'nosuch'"),
        (["alexnet", "data.source=folder:nowhere"], 1, "nowhere"),
        (
            ["alexnet", *SMALL, "--ids=5,9999"],
            1,
            "no images of the training split have the ids 9999",
        ),
        (["googlenet", *SMALL, "augment.aspect=(2.0,0.5)"], 2, "narrowest <= widest"),
    ],
)
def test_bad_input(arguments, code, said, tmp_path, capsys):
    assert main(["views", *arguments, f"--out={tmp_path / 'x.png'}"]) == code
    assert said in capsys.readouterr().err
