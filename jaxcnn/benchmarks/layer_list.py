"""A net as a list of layers that another framework can build: plain data, from the papers' tables.

```text
["conv", name, inputs, outputs, side, stride, before, after, groups]    with bias
["relu"]  ["max_pool", side, stride, before, after]  ["average_pool", side, stride]
["lrn", n, alpha, beta, k, towers]    alpha multiplies the sum, not the mean
["linear", name, inputs, outputs]    feature maps are flattened as (channel, row, column)
["dropout", rate]  ["concat", [layer, ...], ...]  ["auxiliary", [layer, ...]]
```
"""

from __future__ import annotations

from typing import Any

from jaxcnn.models import alexnet, googlenet, ops, vgg
from jaxcnn.models.net import channels
from jaxcnn.models.window import Window, map_side, same

Layers = list[list[Any]]


def layer_list(net: Any) -> Layers:
    """The layers of a net without variants, auxiliary heads included.

    Raises:
        ValueError: no peer can be built of this net or variant.
    """
    if isinstance(net, vgg.VGG):
        return _vgg(net)
    if isinstance(net, alexnet.AlexNet) and net.activation == "relu" and not net.drop_layer:
        return _alexnet(net)
    if isinstance(net, googlenet.GoogLeNet) and (net.module, net.stem, net.head) == (
        *("reduced", "conv", "average"),
    ):
        return _googlenet(net)
    raise ValueError(
        f"no peer can be built of {net}: give alexnet, googlenet or a VGG without variants"
    )


def _conv(name: str, inputs: int, outputs: int, window: Window, groups: int = 1) -> Layers:
    shape = [window.size, window.stride, window.before, window.after]
    return [["conv", name, inputs, outputs, *shape, groups], ["relu"]]


def _pool(window: Window) -> list[Any]:
    return ["max_pool", window.size, window.stride, window.before, window.after]


def _lrn(constants: str, towers: int = 1) -> list[Any]:
    c = ops.LRN_CONSTANTS[constants]
    return ["lrn", c.n, c.alpha / c.n if c.alpha_over_n else c.alpha, c.beta, c.k, towers]


def _classifier(net: Any, maps: int, hidden: int) -> Layers:
    drop = ["dropout", net.dropout]
    return [
        *(["linear", "fc6", maps * net.classifier_side() ** 2, hidden], ["relu"], drop),
        *(["linear", "fc7", hidden, hidden], ["relu"], drop),
        ["linear", "fc8", hidden, net.num_classes],
    ]


def _vgg(net: vgg.VGG) -> Layers:
    column, found, inputs = vgg.COLUMNS[net.column], [], 3
    for number, (full, sides) in enumerate(
        zip(vgg.BLOCK_CHANNELS, column.kernels, strict=True), start=1
    ):
        for position, side in enumerate(sides, start=1):
            name, outputs = f"conv{number}_{position}", channels(full, net.width)
            found += _conv(name, inputs, outputs, same(side))
            inputs = outputs
            if column.lrn_after == name:
                found.append(_lrn("paper"))
        found.append(_pool(vgg.POOL))
    return found + _classifier(net, inputs, channels(vgg.HIDDEN, net.width))


def _alexnet(net: alexnet.AlexNet) -> Layers:
    """The towers are convolutions of two groups with the same kernels."""
    found, inputs = [], net.inputs(net.width)
    maps = 3
    for spec in alexnet.FRONT + alexnet.BACK:
        if isinstance(spec, alexnet.Pool):
            found.append(_pool(net.window(spec)))
            continue
        outputs = net.channels_of(spec, net.width)
        found += _conv(spec.name, maps, outputs, spec.window, maps // inputs[spec.name])
        if spec.norm and net.lrn != "off":
            towers = net.towers if net.lrn == "tower" and not net.ungrouped else 1
            found.append(_lrn(net.lrn_constants, towers))
        maps = outputs
    return found + _classifier(net, maps, channels(alexnet.HIDDEN, net.width, net.towers))


def _googlenet(net: googlenet.GoogLeNet) -> Layers:
    def conv(name: str, inputs: int, full: int, window: Window) -> Layers:
        return _conv(name, inputs, channels(full, net.width), window)

    norm = [_lrn(net.lrn_constants)] if net.lrn else []
    pool, one = _pool(googlenet.POOL), Window(1)
    stem = channels(googlenet.STEM_CHANNELS, net.width)
    found = [
        *(*conv("conv1", 3, googlenet.STEM_CHANNELS, googlenet.CONV1), pool, *norm),
        *conv("conv2_reduce", stem, googlenet.STEM_CHANNELS, one),
        *(*conv("conv2", stem, googlenet.CONV2_CHANNELS, same(3)), *norm, pool),
    ]
    inputs = channels(googlenet.CONV2_CHANNELS, net.width)
    for name, widths in googlenet.INCEPTION.items():
        if name in ("4a", "5a"):
            found.append(pool)
        found.append(_inception(f"inception_{name}", inputs, widths, net.width))
        outputs = (widths.conv1x1, widths.conv3x3, widths.conv5x5, widths.pool_proj)
        inputs = sum(channels(full, net.width) for full in outputs)
        if name in googlenet.AUXILIARY_AFTER and net.auxiliary:
            found.append(["auxiliary", _auxiliary(net, f"aux_{name}", inputs)])
    side = net.classifier_side()
    return [
        *(*found, ["average_pool", side, 1], ["dropout", net.dropout]),
        ["linear", "fc", inputs, net.num_classes],
    ]


def _inception(name: str, inputs: int, widths: googlenet.Widths, width: float) -> list[Any]:
    def conv(layer: str, inputs: int, side: int) -> Layers:
        outputs = channels(getattr(widths, layer), width)
        return _conv(f"{name}/{layer}", inputs, outputs, same(side))

    return [
        "concat",
        conv("conv1x1", inputs, 1),
        conv("conv3x3_reduce", inputs, 1)
        + conv("conv3x3", channels(widths.conv3x3_reduce, width), 3),
        conv("conv5x5_reduce", inputs, 1)
        + conv("conv5x5", channels(widths.conv5x5_reduce, width), 5),
        [_pool(googlenet.POOL_IN_MODULE), *conv("pool_proj", inputs, 1)],
    ]


def _auxiliary(net: googlenet.GoogLeNet, name: str, inputs: int) -> Layers:
    window, maps = net.auxiliary_pool(), channels(googlenet.AUXILIARY_CHANNELS, net.width)
    hidden = channels(googlenet.HIDDEN, net.width)
    side = window.out(map_side(net.trunk()[:-1], net.image_size))
    return [
        ["average_pool", window.size, window.stride],
        *_conv(f"{name}/conv", inputs, maps, Window(1)),
        *(["linear", f"{name}/fc1", maps * side**2, hidden], ["relu"]),
        *(["dropout", net.aux_dropout], ["linear", f"{name}/fc2", hidden, net.num_classes]),
    ]
