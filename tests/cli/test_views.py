"""The picture of training views shows what the pipeline and the device make."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import data as room
from jaxcnn.cli import views
from jaxcnn.data.pixel_statistics import IMAGENET
from jaxcnn.preprocessing import augment_batch, make_preprocess
from jaxcnn.training import schema
from jaxcnn.training.evaluator import open_splits

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ["data.source=synthetic:4", "model.image_size=96", "data.seed=7"]


def test_the_views_drawn_are_those_that_the_net_sees():
    config = schema.read_resolved("googlenet", SMALL, CONFIGS)[1]
    data = open_splits(config["data"])
    row = views._row(config, data, 5, 2)
    augment = schema.SECTIONS["augment"](**config["augment"] | {"mean": (0.0, 0.0, 0.0)})
    size = len(data.train)
    settings = {"seed": 7, "batch_size": size, "image_size": 96, "sampling": augment}
    with room.TrainLoader(data.train, **settings) as batches:
        for epoch in range(2):
            batch = next(batches)
            place = int(np.flatnonzero(batch["id"] == 5)[0])
            one = {k: jnp.asarray(v[place : place + 1]) for k, v in batch.items()}
            assert int(one["epoch"][0]) == epoch
            seen = augment_batch(jax.random.key(7), one, make_preprocess(augment, IMAGENET))[0]
            expected = np.clip(np.rint(seen), 0, 255)
            assert np.abs(expected - row.pixels[epoch]).max() <= 1
            assert np.ptp(expected) > 20


def test_command(tmp_path, capsys):
    out = tmp_path / "new" / "views.png"
    assert views.main(["alexnet", *SMALL, f"--out={out}", "--images=2", "--views=3"]) == 0
    assert "2 x 3 views of synthetic:4" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.width > image.height > 100
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 1000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nosuch"], 2, "no config file 'nosuch'"),
        (["alexnet", "data.source=folder:nowhere"], 1, "nowhere"),
        (["alexnet", *SMALL, "--ids=5,9999"], 1, r"--ids [9999] are no training images"),
        (["googlenet", *SMALL, "augment.aspect=(2.0,0.5)"], 2, "narrowest <= widest"),
    ],
)
def test_bad_input(arguments, code, said, tmp_path, capsys):
    assert views.main([*arguments, f"--out={tmp_path / 'x.png'}"]) == code
    assert said in capsys.readouterr().err
