"""The CIFAR-10 net of Krizhevsky's cuda-convnet2, `layers-cifar10-11pct`.

Krizhevsky et al. 2012 measure LRN on CIFAR-10 with a net for which they refer to cuda-convnet's
files (section 3.3: 13 % error without, 11 % with). This file is the likely one by its name and its
error. The paper does not name the net of its Fig. 1, ReLU against tanh.
"""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxcnn.models import initializers, ops
from jaxcnn.models.context import Context
from jaxcnn.models.layers import (
    Conv,
    FullyConnected,
    LocallyConnected,
    LocalResponseNorm,
    MaxPool,
)
from jaxcnn.models.net import Net, channels, check_images
from jaxcnn.models.window import Window, same


class Layer(NamedTuple):
    """A layer of the published file; it keeps the size of its input."""

    window: Window
    inputs: int
    outputs: int
    std: float  # standard deviation of the initial weights


LAYERS = {
    "conv1": Layer(same(5), 3, 64, 1e-4),
    "conv2": Layer(same(5), 64, 64, 0.01),
    "local3": Layer(same(3), 64, 64, 0.04),
    "local4": Layer(same(3), 64, 32, 0.04),
}
CLASSIFIER_STD = 0.01

# cuda-convnet2's pools have ceil((side - 3) / 2) + 1 outputs: the last window may pass the edge.
POOLS = {"overlapping": Window(3, 2, 0, 1), "non_overlapping": Window(2, 2)}


class CudaConvNet(Net):
    """Krizhevsky's CIFAR-10 net, on 24-pixel crops of the 32-pixel images.

    Layers: conv1, pool1, norm1, conv2, norm2, pool2, local3, local4, fc. The first LRN follows a pool,
    the second precedes one. local3 and local4 have a separate kernel and bias at every position.
    Biases start at 0. The published net has no dropout, so `dropout` is 0.

    Fields. activation: 'relu' or 'tanh' (Krizhevsky et al. 2012, Fig. 1), after conv1, conv2,
    local3 and local4. lrn: whether there is any (section 3.3). lrn_constants: a key of
    ops.LRN_CONSTANTS. pooling: 'overlapping' 3/2 or 'non_overlapping' 2/2 (section 3.4). local:
    'unshared', or 'shared' for plain convolutions in local3 and local4, which score maps of images of
    any size need. For the other fields see `Net`.
    """

    num_classes: int = 10
    image_size: int = 24
    dropout: float = 0.0
    activation: str = "relu"
    lrn: bool = True
    lrn_constants: str = "cifar10"
    pooling: str = "overlapping"
    local: str = "unshared"

    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "activation": ("relu", "tanh"),
        "lrn_constants": tuple(ops.LRN_CONSTANTS),
        "pooling": tuple(POOLS),
        "local": ("unshared", "shared"),
    }

    def problems(self) -> list[str]:
        found = super().problems()
        if 0 < self.dropout < 1:
            found.append(f"dropout={self.dropout!r}, but this net has none: leave it at 0.0")
        return found

    def trunk(self) -> tuple[Window, ...]:
        conv1, conv2, *local = (layer.window for layer in LAYERS.values())
        return (conv1, POOLS[self.pooling], conv2, POOLS[self.pooling], *local)

    def supports_dense(self) -> bool:
        return self.local == "shared"

    @nn.compact
    def forward(self, images, context: Context):
        convolutions = nn.remat(_convolutions) if self.remat else _convolutions
        local_layers = nn.remat(_local_layers) if self.remat else _local_layers
        x, context = convolutions(self, images.astype(self.dtype), context)
        x, context = local_layers(self, x, context)
        window = Window(self.classifier_side())
        x = FullyConnected(
            self.num_classes,
            window,
            initializers.gaussian(CLASSIFIER_STD, x.shape[-1], LAYERS["local4"].outputs),
            activation="none",
            dtype=self.dtype,
            output_dtype="float32",
            name="fc",
        )(x, context)
        return x, (), context.after(window)

    def score_map(
        self, images: Float[Array, "b H W 3"], sizes: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b h w k"], Bool[Array, "b h w"]]:
        """`Net.score_map`; with local='unshared' for images of image_size only, else a ValueError."""
        check_images(images)
        side, seen = self.image_size, images.shape[1:3]
        if not self.supports_dense() and seen != (side, side):
            positions = self.classifier_side()
            raise ValueError(
                f"score_map was given {seen[0]}x{seen[1]} images, but local3 and local4 have a "
                f"kernel for each of the {positions}x{positions} positions of image_size={side} "
                f"only: give {side}x{side} crops, or build the net with local='shared'"
            )
        return super().score_map(images, sizes)


def _convolutions(net: CudaConvNet, x: Array, context: Context) -> tuple[Array, Context]:
    """conv1 to pool2."""
    pool = POOLS[net.pooling]
    x, context = _layer(net, "conv1", x, context)
    x, context = MaxPool(pool, name="pool1")(x, context), context.after(pool)
    if net.lrn:
        x = LocalResponseNorm(net.lrn_constants, name="norm1")(x)
    x, context = _layer(net, "conv2", x, context)
    if net.lrn:
        x = LocalResponseNorm(net.lrn_constants, name="norm2")(x)
    return MaxPool(pool, name="pool2")(x, context), context.after(pool)


def _local_layers(net: CudaConvNet, x: Array, context: Context) -> tuple[Array, Context]:
    x, context = _layer(net, "local3", x, context)
    return _layer(net, "local4", x, context)


def _layer(net: CudaConvNet, name: str, x: Array, context: Context) -> tuple[Array, Context]:
    """The output of a layer of the published file, and the context after it."""
    spec, unshared = LAYERS[name], name.startswith("local") and net.local == "unshared"
    layer = (LocallyConnected if unshared else Conv)(
        channels(spec.outputs, net.width),
        spec.window,
        initializers.gaussian(spec.std, x.shape[-1], spec.inputs),
        activation=net.activation,
        dtype=net.dtype,
        name=name,
    )
    return layer(x, context), context.after(spec.window)
