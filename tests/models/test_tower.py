"""AlexNet with a tower on each of two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from numpy.testing import assert_allclose

from jaxcnn.models import build
from jaxcnn.models.tower import tower
from tests.models.narrow import picture, random_variables


def test_a_tower_on_each_device_is_the_net():
    net = build("alexnet", width=0.1, num_classes=6, image_size=72)
    variables, images = random_variables(net), jnp.asarray(picture(2, 72, 72))
    exchanged = []

    def exchange(x):
        exchanged.append(x.shape[-1])
        return jax.lax.all_gather(x, "model", axis=x.ndim - 1, tiled=True)

    def specs(leaf):
        return PartitionSpec(*(None,) * (leaf.ndim - 1), "model")

    apply = jax.shard_map(
        lambda params, images: tower(net, params, images, exchange),
        mesh=Mesh(np.array(jax.devices()[:2]), ("model",)),
        in_specs=(jax.tree.map(specs, variables["params"]), PartitionSpec()),
        out_specs=PartitionSpec(None, "model"),
    )
    logits = jax.jit(apply)(variables["params"], images)
    assert_allclose(logits, net.apply(variables, images)[0], rtol=1e-4, atol=1e-4)
    assert exchanged == [13, 13, 205, 205]  # the inputs of conv3, fc6, fc7 and fc8


@pytest.mark.parametrize("fields", [{"lrn": "whole"}, {"towers": 1}, {"num_classes": 5}])
def test_nets_that_cannot_be_cut(fields):
    net = build("alexnet", **fields)
    with pytest.raises(ValueError, match="towers=2, ungrouped=False, lrn='tower'"):
        tower(net, {}, jnp.zeros((1, 224, 224, 3)), lambda x: x)
