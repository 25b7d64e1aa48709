"""AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012), in the paper's two towers.

The paper spreads the net over two GPUs. Here a tower is half of every layer's outputs, and the parameters
keep the paper's shapes, both towers along the last axis, however the towers are computed. The towers
exchange feature maps at the inputs of conv3, fc6, fc7 and fc8 and nowhere else (section 3.5): `_segment`
computes conv1 to pool2 and conv3 to pool5, and an exchange follows each; `Towers` defines it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jaxtyping import Array

from jaxcnn.models import initializers, ops
from jaxcnn.models.classifier import HIDDEN, ClassifierNet
from jaxcnn.models.context import Context, Layout
from jaxcnn.models.layers import Conv, LocalResponseNorm, MaxPool
from jaxcnn.models.net import channels
from jaxcnn.models.towers import Towers
from jaxcnn.models.window import Window, map_side, same


class Convolution(NamedTuple):
    """A convolutional layer of section 3.5."""

    name: str
    window: Window
    channels: int
    one_gpu_channels: int  # in the one-GPU net of section 3.2's footnote
    one_weird_trick: int  # channels in Krizhevsky 2014, arXiv 1404.5997, the net of torchvision
    unit_bias: bool  # whether its biases start at 1 (section 5)
    norm: str = ""


class Pool(NamedTuple):
    """A max-pool; `AlexNet.pooling` gives its window."""

    name: str


# conv1's padding is cuda-convnet's: the last window reads zeros past the right and bottom edges,
# which makes 55x55 of 224x224. The paper gives no padding; the others keep the size.
FRONT = (
    Convolution("conv1", Window(11, 4, 0, 3), 96, 48, 64, False, "norm1"),
    Pool("pool1"),
    Convolution("conv2", same(5), 256, 128, 192, True, "norm2"),
    Pool("pool2"),
)
BACK = (
    Convolution("conv3", same(3), 384, 192, 384, False),
    Convolution("conv4", same(3), 384, 192, 256, True),
    Convolution("conv5", same(3), 256, 256, 256, True),
    Pool("pool5"),
)
PADDED_CONV1 = Window(11, 4, 2, 2)  # of the released one-weird-trick net
POOLS = {"overlapping": Window(3, 2), "non_overlapping": Window(2, 2)}  # section 3.4

Table = tuple[Convolution | Pool, ...]


class AlexNet(ClassifierNet):
    """AlexNet.

    Layers: conv1 .. conv5, fc6, fc7, fc8, each but the last with its activation; norm1, norm2,
    pool1, pool2, pool5; dropout after fc6 and fc7 (section 4.2). A layer that is computed tower by
    tower shows one output per tower to `capture_intermediates`; the layer's output is their concatenation.

    Fields. towers: 2, or 1 for section 3.2's one-GPU net (half the kernels in conv1 to conv4).
    ungrouped: with towers=2, every convolution sees all channels. lrn: 'tower' (inside each tower, as in
    Krizhevsky's two-GPU code, ungrouped or not), 'whole' (across the border of the towers) or 'off'.
    lrn_constants: a key of ops.LRN_CONSTANTS. pooling: 'overlapping' 3/2 or 'non_overlapping' 2/2.
    order: 'norm_pool', or 'pool_norm' (CaffeNet: each LRN follows its pool). widths: '2012', or
    'one_weird_trick', Krizhevsky 2014's channels of one tower, conv1 padded by 2 on each side as torchvision.
    activation: 'relu' or 'tanh'. drop_layer: '' or one of conv2 .. conv5 to leave out (section 7); its
    pool and the exchange before it stay, and the next layer reads its input. init_std: standard deviation of
    all initial weights except those of fc6 and fc7, which take init_std_hidden. init_bias: initial biases of
    conv2, conv4, conv5, fc6 and fc7 (section 5). For the other fields see `Net`.
    """

    towers: int = 2
    ungrouped: bool = False
    lrn: str = "tower"
    lrn_constants: str = "paper"
    pooling: str = "overlapping"
    order: str = "norm_pool"
    widths: str = "2012"
    activation: str = "relu"
    drop_layer: str = ""
    init_std: float = 0.01
    init_std_hidden: float = 0.01
    init_bias: float = 1.0

    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "towers": (1, 2),
        "lrn": ("tower", "whole", "off"),
        "lrn_constants": tuple(ops.LRN_CONSTANTS),
        "pooling": tuple(POOLS),
        "order": ("norm_pool", "pool_norm"),
        "widths": ("2012", "one_weird_trick"),
        "activation": ("relu", "tanh"),
        "drop_layer": ("", "conv2", "conv3", "conv4", "conv5"),
    }

    def problems(self) -> list[str]:
        found = super().problems()
        if self.ungrouped and self.towers == 1:
            found.append("ungrouped=True needs towers=2: the one-GPU net has no groups")
        if self.widths == "one_weird_trick" and self.towers != 1:
            found.append("widths='one_weird_trick' is a net of one tower: give towers=1")
        if min(self.init_std, self.init_std_hidden) <= 0:
            found.append("init_std and init_std_hidden must be above 0; the paper's is 0.01")
        return found

    def layers(self, table: Table) -> Iterable[Convolution | Pool]:
        """The layers of a table without `drop_layer`."""
        return (layer for layer in table if layer.name != self.drop_layer)

    def window(self, layer: Convolution | Pool) -> Window:
        if isinstance(layer, Pool):
            return POOLS[self.pooling]
        padded = layer.name == "conv1" and self.widths == "one_weird_trick"
        return PADDED_CONV1 if padded else layer.window

    def trunk(self) -> tuple[Window, ...]:
        return tuple(self.window(layer) for layer in self.layers(FRONT + BACK))

    @nn.compact
    def forward(self, images, context: Context):
        shard, x = context.shard, images.astype(self.dtype)
        if shard.shard_count("conv1") > 1:
            x, context = shard.gather_rows(x), replace(context, layout=Layout.REPLICATED)
            towers = Towers(1, shard)
        else:
            towers = Towers(1 if self.ungrouped else self.towers)
        segment = nn.remat(_segment, static_argnums=(3, 4)) if self.remat else _segment
        for table in (FRONT, BACK):
            maps, context = segment(self, x, context, table, towers)
            x = towers.exchange(maps)
        # Each fully connected layer reads all inputs: on one device its towers are one product.
        x, context = self.classify(x, context, self.init_bias, self.activation)
        return x, (), context

    def classifier_init(self, name: str, inputs: int) -> initializers.Initializer:
        del inputs
        return self.initializer(name)

    def hidden_features(self) -> int:
        return channels(HIDDEN, self.width, self.towers)

    def towers_problem(self) -> str:
        if self.towers == 2 and not self.ungrouped and self.lrn != "whole":
            return ""
        return (
            "one tower per device needs model.towers=2, model.ungrouped=False and model.lrn=tower or "
            f"off; they are {self.towers}, {self.ungrouped} and {self.lrn}"
        )

    def tower_layers(self) -> frozenset[str]:
        convolutions = {c.name for c in self.layers(FRONT + BACK) if isinstance(c, Convolution)}
        return frozenset(convolutions) | self.fully_connected(2)

    def exchanged(self) -> int:
        """Values per image that the towers exchange at the input of conv3."""
        front, back = list(self.layers(FRONT)), list(self.layers(BACK))
        side = map_side([self.window(layer) for layer in front], self.image_size)
        return side**2 * self.inputs(self.width)[back[0].name]

    def channels_of(self, layer: Convolution, width: float) -> int:
        if self.widths == "one_weird_trick":
            return channels(layer.one_weird_trick, width)
        if self.towers == 1:
            return channels(layer.one_gpu_channels, width)
        return channels(layer.channels, width, multiple=2)

    def inputs(self, width: float) -> dict[str, int]:
        """Input channels of one kernel of each layer at a width."""
        groups = 1 if self.ungrouped else self.towers
        counts, before = {}, 3
        for table in (FRONT, BACK):
            sees_all = True
            for layer in self.layers(table):
                if isinstance(layer, Convolution):
                    counts[layer.name] = before if sees_all else before // groups
                    before, sees_all = self.channels_of(layer, width), False
        hidden = channels(HIDDEN, width, self.towers)
        return {**counts, "fc6": before, "fc7": hidden, "fc8": hidden}

    def initializer(self, name: str):
        """The kernel initializer of a layer: section 5's Gaussian, corrected for the width."""
        std = self.init_std_hidden if name in ("fc6", "fc7") else self.init_std
        return initializers.gaussian(std, self.inputs(self.width)[name], self.inputs(1.0)[name])


def _segment(
    net: AlexNet, x: Array, context: Context, table: Table, towers: Towers
) -> tuple[Sequence[Array], Context]:
    """From feature maps that every tower sees to each tower's own.

    The first layer of the table reads all channels, the others those of their own tower.
    """
    maps: Sequence[Array] = ()
    norm, shards = "", context.shard.shard_count("conv1")
    for layer in net.layers(table):
        if isinstance(layer, Pool):
            pool = MaxPool(net.window(layer), name=layer.name)
            maps = [pool(m, context) for m in maps]
        else:
            conv = Conv(
                net.channels_of(layer, net.width) // shards,
                net.window(layer),
                net.initializer(layer.name),
                bias=net.init_bias if layer.unit_bias else 0.0,
                towers=net.towers,
                activation=net.activation,
                dtype=net.dtype,
                name=layer.name,
            )
            if maps:
                maps = [conv(m, context, t) for m, t in zip(maps, towers.indices, strict=True)]
            else:
                maps = towers.split(conv(x, context))
            norm = layer.norm
        if norm and net.lrn != "off" and isinstance(layer, Pool) == (net.order == "pool_norm"):
            maps = _normalised(net, LocalResponseNorm(net.lrn_constants, name=norm), maps, towers)
            norm = ""
        context = context.after(net.window(layer))
    return maps, context


def _normalised(
    net: AlexNet, norm: LocalResponseNorm, maps: Sequence[Array], towers: Towers
) -> Sequence[Array]:
    """The maps after LRN, whose sums stop at the border of the towers unless lrn='whole'."""
    if net.lrn == "whole":
        return towers.split(norm(towers.exchange(maps)))
    # Ungrouped, the maps of both towers are one array.
    parts = Towers(net.towers if net.ungrouped else 1)
    return [parts.exchange([norm(part) for part in parts.split(m)]) for m in maps]
