"""One tower of AlexNet by itself, for a mesh on which each device holds one.

The paper's own arrangement (Krizhevsky et al. 2012, section 3.2), as a pure function.
"""

from collections.abc import Callable, Mapping
from functools import partial

from jaxtyping import Array

from jaxcnn.models.alexnet import (
    BACK,
    FRONT,
    AlexNet,
    Layers,
    Towers,
    classify,
    convolutional_layers,
    fully_connected_layers,
    segment,
)


def _no_dropout(name: str, x: Array) -> Array:
    del name
    return x


def tower(
    net: AlexNet,
    params: Mapping[str, Mapping[str, Array]],
    images: Array,
    exchange: Callable[[Array], Array],
    dropout: Callable[[str, Array], Array] = _no_dropout,
) -> Array:
    """One tower of the net, for a `jax.shard_map` in which each device holds one.

    A pure function. params: the tower's half of every array, cut along the last axis. exchange:
    gathers the last axis from both towers, such as `lax.all_gather(x, 'model', axis=x.ndim - 1,
    tiled=True)`; it is called at the inputs of conv3, fc6, fc7 and fc8. dropout: (name, x) -> x,
    drop6 and drop7 on the tower's own half. Returns the tower's half of the logits.

    Raises:
      ValueError: the net cannot be cut in two.
    """
    if net.towers != 2 or net.ungrouped or net.lrn == "whole" or net.num_classes % 2:
        raise ValueError(
            "a tower alone needs towers=2, ungrouped=False, lrn='tower' or 'off' and an even "
            f"num_classes; got {net.towers}, {net.ungrouped}, {net.lrn!r}, {net.num_classes}"
        )

    def bound(layers: Layers) -> Layers:
        return {
            name: partial(module.apply, {"params": params.get(name, {})})
            for name, module in layers.items()
        }

    towers = Towers((None,), lambda x: [x], lambda maps: exchange(maps[0]))
    x = images.astype(net.dtype)
    for specs in (FRONT, BACK):
        layers = bound(convolutional_layers(net, specs, share=2))
        maps, _ = segment(net, layers, towers, specs, x, None)
        x = towers.exchange(maps)
    return classify(net, bound(fully_connected_layers(net, share=2)), dropout, exchange, x, None)[0]
