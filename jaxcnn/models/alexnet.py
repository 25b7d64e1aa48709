"""AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012), in the paper's two towers.

The paper spreads the net over two GPUs. Here a tower is half of every layer's outputs, and the
parameters keep the paper's shapes, the towers side by side in the last axis, in whatever way the
towers are computed. The towers meet at the inputs of conv3, fc6, fc7 and fc8 and nowhere else
(section 3.5), so the net is `segment`s, each a function of a tower's own layers and of maps that
every tower sees, with an exchange behind it. `Towers` says how the maps part and meet: by slices
and a concatenation on one device, by collectives where each device holds one tower.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxcnn.models import initializers, ops
from jaxcnn.models.classifier import classify, shareable
from jaxcnn.models.context import Layout, ShardContext
from jaxcnn.models.layers import (
    Conv,
    FullyConnected,
    LocalResponseNorm,
    MaxPool,
    Sizes,
    out_sizes,
)
from jaxcnn.models.net import Net, channels, map_side
from jaxcnn.models.ops import Window


class Convolution(NamedTuple):
    """A convolutional layer of section 3.5."""

    name: str
    window: Window
    maps: int
    one_gpu_maps: int  # in the one-GPU net of section 3.2's footnote
    unit_bias: bool  # whether its biases start at 1 (section 5)
    norm: str = ""
    pool: str = ""


# conv1's padding is cuda-convnet's: the last window reads zeros past the right and bottom edges,
# which makes 55x55 of 224x224. The paper gives no padding; the others keep the size.
FRONT = (
    Convolution("conv1", Window(11, 4, 0, 3), 96, 48, False, "norm1", "pool1"),
    Convolution("conv2", Window(5, 1, 2, 2), 256, 128, True, "norm2", "pool2"),
)
BACK = (
    Convolution("conv3", Window(3, 1, 1, 1), 384, 192, False),
    Convolution("conv4", Window(3, 1, 1, 1), 384, 192, True),
    Convolution("conv5", Window(3, 1, 1, 1), 256, 256, True, pool="pool5"),
)
HIDDEN = 4096
POOLS = {"overlapping": Window(3, 2), "non_overlapping": Window(2, 2)}  # section 3.4

Layers = Mapping[str, Callable[..., Array]]


@dataclass(frozen=True)
class Towers:
    """How maps that every tower sees become each tower's, and back."""

    held: tuple[int | None, ...]  # towers computed here; None: all that the parameters hold
    split: Callable[[Array], Sequence[Array]]
    exchange: Callable[[Sequence[Array]], Array]


def towers_on_one_device(count: int) -> Towers:
    """All towers here. Never a grouped convolution: its gradient is eight times slower on a CPU."""
    if count == 1:
        return Towers((None,), lambda x: [x], lambda maps: maps[0])
    return Towers(
        tuple(range(count)),
        lambda x: jnp.split(x, count, axis=-1),
        lambda maps: jnp.concatenate(maps, axis=-1),
    )


def tower_on_each_device(part: ShardContext) -> Towers:
    """This device's tower, as on the paper's GPUs: an exchange is one all-gather."""
    return Towers((None,), lambda x: [x], lambda maps: part.gather_outputs(maps[0]))


class AlexNet(Net):
    """AlexNet.

    Layers: conv1 .. conv5, fc6, fc7, fc8, each but the last with its activation; norm1, norm2,
    pool1, pool2, pool5; dropout after fc6 and fc7 (section 4.2). A layer that is computed tower by
    tower shows one output a tower to `capture_intermediates`; their concatenation is the layer's.

    Fields. towers: 2, or 1 for section 3.2's one-GPU net (half the kernels in conv1 to conv4).
    ungrouped: with towers=2, every layer sees all maps. lrn: 'tower' (each tower by itself, as in
    Krizhevsky's two-GPU code), 'whole' (across the border of the towers) or 'off'. lrn_constants:
    a key of ops.LRN_CONSTANTS. pooling: 'overlapping' 3/2 or 'non_overlapping' 2/2. activation:
    'relu' or 'tanh'. drop_layer: '' or one of conv2 .. conv5 to leave out (section 7); its pool
    and the exchange before it stay, and the next layer reads its input. init_std: deviation of
    all weights but those of fc6 and fc7, which take init_std_hidden. init_bias: first biases of
    conv2, conv4, conv5, fc6 and fc7 (section 5). For the rest see `Net`.
    """

    towers: int = 2
    ungrouped: bool = False
    lrn: str = "tower"
    lrn_constants: str = "paper"
    pooling: str = "overlapping"
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
        "activation": ("relu", "tanh"),
        "drop_layer": ("", "conv2", "conv3", "conv4", "conv5"),
    }

    def problems(self) -> list[str]:
        found = super().problems()
        if self.ungrouped and self.towers == 1:
            found.append("ungrouped=True needs towers=2: the one-GPU net has no groups")
        if min(self.init_std, self.init_std_hidden) <= 0:
            found.append("init_std and init_std_hidden must be above 0; the paper's is 0.01")
        return found

    def trunk(self) -> tuple[Window, ...]:
        windows = []
        for spec in FRONT + BACK:
            windows += [spec.window] if spec.name != self.drop_layer else []
            windows += [POOLS[self.pooling]] if spec.pool else []
        return tuple(windows)

    @nn.compact
    def forward(self, images, sizes: Sizes, train: bool, part: ShardContext):
        share, x = part.shard_count("conv1"), images.astype(self.dtype)
        towers, held = (
            towers_on_one_device(1 if self.ungrouped else self.towers),
            Layout.BATCH_SHARDED,
        )
        if share > 1:
            towers, held = tower_on_each_device(part), Layout.REPLICATED
            x = part.gather_rows(x)

        def features(net: AlexNet, x, sizes, specs):
            return segment(net, convolutional_layers(net, specs, share), towers, specs, x, sizes)

        if self.remat:
            features = nn.remat(features, static_argnums=(3,))
        for specs in (FRONT, BACK):
            maps, sizes = features(self, x, sizes, specs)
            x = towers.exchange(maps)
        # A fully connected layer reads everything, so on one device its towers are one product.
        x, sizes = classify(self, self.head_layer, x, sizes, train, part, held)
        return x, (), sizes

    def head_layer(self, name: str, inputs: int, share: int) -> FullyConnected:
        """fc6, fc7 or fc8, or one of `share` equal parts of it."""
        del inputs
        kinds = {"bias": self.init_bias, "activation": self.activation}
        if name == "fc8":
            kinds = {"bias": 0.0, "activation": "none", "output_dtype": "float32"}
        window = Window(self.head_side() if name == "fc6" else 1)
        features = self.head_features(name) // share
        start = self.start(name)
        return FullyConnected(features, window, start, dtype=self.dtype, name=name, **kinds)

    def head_features(self, name: str) -> int:
        return self.num_classes if name == "fc8" else channels(HIDDEN, self.width, self.towers)

    def fully_connected(self, size: int) -> frozenset[str]:
        return shareable(self.head_features, size)

    def towers_problem(self) -> str:
        if self.towers == 2 and not self.ungrouped and self.lrn != "whole":
            return ""
        return (
            "a tower a device needs model.towers=2, model.ungrouped=False and model.lrn=tower or "
            f"off; they are {self.towers}, {self.ungrouped} and {self.lrn}"
        )

    def tower_layers(self) -> frozenset[str]:
        convolutions = (spec.name for spec in FRONT + BACK if spec.name != self.drop_layer)
        return frozenset(convolutions) | self.fully_connected(2)

    def exchanged(self) -> int:
        """Values an image that the towers exchange in front of conv3."""
        front = sum(1 for spec in FRONT if spec.name != self.drop_layer) + len(FRONT)
        side = map_side(self.trunk()[:front], self.image_size)
        return side**2 * self.inputs(self.width)["conv3" if self.drop_layer != "conv3" else "conv4"]

    def maps_of(self, spec: Convolution, width: float) -> int:
        if self.towers == 1:
            return channels(spec.one_gpu_maps, width)
        return channels(spec.maps, width, multiple=2)

    def inputs(self, width: float) -> dict[str, int]:
        """Input channels of one kernel of each layer at a width."""
        groups = 1 if self.ungrouped else self.towers
        counts, maps = {}, 3
        for specs in (FRONT, BACK):
            sees_all = True
            for spec in specs:
                if spec.name == self.drop_layer:
                    continue
                counts[spec.name] = maps if sees_all else maps // groups
                maps, sees_all = self.maps_of(spec, width), False
        hidden = channels(HIDDEN, width, self.towers)
        return {**counts, "fc6": maps, "fc7": hidden, "fc8": hidden}

    def start(self, name: str):
        """The kernel initialiser of a layer: section 5's Gaussian, corrected for the width."""
        std = self.init_std_hidden if name in ("fc6", "fc7") else self.init_std
        return initializers.gaussian(std, self.inputs(self.width)[name], self.inputs(1.0)[name])


def convolutional_layers(net: AlexNet, specs: Sequence[Convolution], share: int = 1) -> Layers:
    """The layers of a segment by name; share=2 gives those of one tower alone."""
    layers: dict[str, Callable[..., Array]] = {}
    for spec in specs:
        if spec.name != net.drop_layer:
            layers[spec.name] = Conv(
                net.maps_of(spec, net.width) // share,
                spec.window,
                net.start(spec.name),
                bias=net.init_bias if spec.unit_bias else 0.0,
                towers=net.towers,
                activation=net.activation,
                dtype=net.dtype,
                name=spec.name,
            )
            if spec.norm and net.lrn != "off":
                layers[spec.norm] = LocalResponseNorm(net.lrn_constants, name=spec.norm)
        if spec.pool:
            layers[spec.pool] = MaxPool(POOLS[net.pooling], name=spec.pool)
    return layers


def segment(
    net: AlexNet,
    layer: Layers,
    towers: Towers,
    specs: Sequence[Convolution],
    x: Array,
    sizes: Sizes,
) -> tuple[Sequence[Array], Sizes]:
    """From maps that every tower sees to each tower's own: conv1 to pool2, or conv3 to pool5.

    The first layer reads all maps, the others those of their own tower. A function of x and of the
    parameters behind `layer` alone. Returns the towers' maps and their true sizes.
    """
    maps: Sequence[Array] = ()
    sees_all = True
    for spec in specs:
        if spec.name != net.drop_layer:
            convolution = layer[spec.name]
            if sees_all:
                maps, sees_all = towers.split(convolution(x, sizes)), False
            else:
                maps = [convolution(m, sizes, t) for m, t in zip(maps, towers.held, strict=True)]
            sizes = out_sizes(spec.window, sizes)
            if spec.norm and net.lrn == "whole":
                maps = towers.split(layer[spec.norm](towers.exchange(maps)))
            elif spec.norm and net.lrn == "tower":
                maps = [layer[spec.norm](m) for m in maps]
        if spec.pool:
            maps = [layer[spec.pool](m, sizes) for m in maps]
            sizes = out_sizes(POOLS[net.pooling], sizes)
    return maps, sizes
