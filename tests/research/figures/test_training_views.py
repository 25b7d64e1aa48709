"""The picture of training crops shows what the pipeline and the device make."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import data as room
from jaxcnn.data.pixel_statistics import IMAGENET
from jaxcnn.preprocessing import augment_batch, make_preprocess
from jaxcnn.research.figures import training_views
from jaxcnn.training import schema
from jaxcnn.training.evaluator import open_splits

SMALL = ["data.source=synthetic:4", "model.image_size=96", "data.seed=7"]


def test_views_equal_the_images_of_training():
    config = schema.read_resolved("googlenet", SMALL)[1]
    data = open_splits(config["data"])
    _, row = training_views.view_rows(config, data, [3, 5], 2)
    augment = schema.SECTIONS["augment"](**config["augment"] | {"mean": (0.0, 0.0, 0.0)})
    size = len(data.train)
    preprocess = make_preprocess(augment, IMAGENET)
    augmented = jax.jit(lambda key, batch: augment_batch(key, batch, preprocess))
    settings = {"seed": 7, "batch_size": size, "image_size": 96, "sampling": augment}
    with room.TrainLoader(data.train, **settings) as batches:
        for epoch in range(2):
            batch = next(batches)
            place = int(np.flatnonzero(batch["id"] == 5)[0])
            one = {k: jnp.asarray(v[place : place + 1]) for k, v in batch.items()}
            assert int(one["epoch"][0]) == epoch
            seen = augmented(jax.random.key(7), one)[0]
            expected = np.clip(np.rint(seen), 0, 255)
            assert np.abs(expected - row.pixels[epoch]).max() <= 1
            assert np.ptp(expected) > 20
