"""fc6, fc7 and fc8: the classifier that AlexNet and VGG share."""

from collections.abc import Callable

from jaxtyping import Array

from jaxcnn.models.context import Layout, ShardContext
from jaxcnn.models.layers import Dropout, FullyConnected, Sizes, out_sizes
from jaxcnn.models.net import Net

FULLY_CONNECTED = ("fc6", "fc7", "fc8")


def classify(
    net: Net,
    layer: Callable[[str, int, int], FullyConnected],
    x: Array,
    sizes: Sizes,
    train: bool,
    part: ShardContext,
    held: Layout = Layout.BATCH_SHARDED,
) -> tuple[Array, Sizes]:
    """Class scores of this device's images, with dropout behind fc6 and fc7.

    Args:
      layer: (name, input channels, share) -> the layer, or one of `share` equal parts of it.
      x: maps of the last pool, held as `held` says.
    """
    for name in FULLY_CONNECTED:
        share = part.shard_count(name)
        x = part.to_batch_sharded(x, held) if share == 1 else part.replicate(x, held)
        held = Layout.BATCH_SHARDED if share == 1 else Layout.FEATURE_SHARDED
        module = layer(name, x.shape[-1], share)
        x, sizes = module(x, sizes), out_sizes(module.window, sizes)
        if name != "fc8":
            drop = Dropout(net.dropout, net.dropout_convention, name=f"drop{name[-1]}")
            x = drop(x, train, part, held)
    return part.to_batch_sharded(x, held), sizes


def shareable(features: Callable[[str], int], size: int) -> frozenset[str]:
    """The layers whose outputs, as many as `features` says, `size` devices can share evenly."""
    return frozenset(name for name in FULLY_CONNECTED if features(name) % size == 0)
