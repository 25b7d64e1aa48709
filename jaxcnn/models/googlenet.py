"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842v1): Table 1, Figure 3 and section 5."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.models import initializers, ops
from jaxcnn.models.context import Context
from jaxcnn.models.layers import (
    AveragePool,
    Conv,
    Dropout,
    FullyConnected,
    LocalResponseNorm,
    MaxPool,
)
from jaxcnn.models.net import Net, channels
from jaxcnn.models.window import Window, map_side, same


class Widths(NamedTuple):
    """The filter columns of Table 1 for one inception module."""

    conv1x1: int
    conv3x3_reduce: int
    conv3x3: int
    conv5x5_reduce: int
    conv5x5: int
    pool_proj: int


INCEPTION = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
STEM_CHANNELS, CONV2_CHANNELS = 64, 192
DEPTHWISE_MULTIPLIER = 8  # of the separable stem; Table 1's 2.7K parameters and 34M operations
POOL_BEFORE = {"4a": "pool3", "5a": "pool4"}
AUXILIARY_AFTER = ("4a", "4d")
AUXILIARY_CHANNELS, HIDDEN = 128, 1024

# Caffe pads 3 and uses 3 and 2 of it by its floor rule. SAME would be (2, 3), another function.
CONV1 = Window(7, 2, 3, 2)
CONV1_PADDING = {"caffe": CONV1, "same": Window(7, 2, 2, 3)}
# Caffe's ceil rule: the last window may pass the edge; that padding is -inf.
POOL = Window(3, 2, 0, 1)
POOL4 = {"3/2": POOL, "2/2": Window(2, 2, 0, 1)}
POOL_IN_MODULE = same(3)
AUXILIARY_POOL = Window(5, 3)


class GoogLeNet(Net):
    """GoogLeNet.

    Layers: conv1, pool1, norm1, conv2_reduce, conv2, norm2, pool2, inception_3a .. inception_5b
    with pool3 and pool4 between, average_pool, fc; aux_4a and aux_4d when train. ReLU after every
    convolution. The plain call gives two auxiliary logits when train=True, in the order 4a, 4d, and
    none otherwise; their parameters are made by an init with train=True.

    Fields. module: 'reduced', or 'naive' (Figure 2a: no 1x1 reductions, the pool passed through).
    stem: 'conv', or 'separable' (conv1 as depthwise 7x7 and 1x1, as Table 1's figures for it imply).
    head: 'average', or 'fully_connected', section 5's comparison, with our choice of an fc1 of 1024 over
    the whole feature map, as in the auxiliary heads. auxiliary: whether train=True has the auxiliary
    heads. lrn and lrn_constants: the paper gives no constants; 'caffe' are BVLC's. dropout,
    aux_dropout: section 5. kernel_init and init_bias: unstated in the paper; BVLC's "xavier" and 0.2,
    with 0 in the classifiers. conv1_padding: 'caffe', or 'same', TF-slim's. branch5x5: side of the kernels of
    the third branch, or 3, and pool4, or '2/2': TF-slim's and torchvision's. For the other fields see `Net`.
    """

    dropout: float = 0.4
    aux_dropout: float = 0.7
    module: str = "reduced"
    stem: str = "conv"
    head: str = "average"
    auxiliary: bool = True
    lrn: bool = True
    lrn_constants: str = "caffe"
    kernel_init: str = "lecun_uniform"
    init_bias: float = 0.2
    conv1_padding: str = "caffe"
    branch5x5: int = 5
    pool4: str = "3/2"

    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "module": ("reduced", "naive"),
        "stem": ("conv", "separable"),
        "head": ("average", "fully_connected"),
        "lrn_constants": tuple(ops.LRN_CONSTANTS),
        "kernel_init": tuple(initializers.FAN_SCALED),
        "conv1_padding": tuple(CONV1_PADDING),
        "branch5x5": (5, 3),
        "pool4": tuple(POOL4),
    }
    rates: ClassVar[tuple[str, ...]] = ("dropout", "aux_dropout")

    def trunk(self) -> tuple[Window, ...]:
        return (CONV1_PADDING[self.conv1_padding], POOL, POOL, POOL, POOL4[self.pool4])

    @nn.compact
    def forward(self, images, context: Context):
        aux: list[jnp.ndarray] = []
        stem = nn.remat(_stem) if self.remat else _stem
        inception = partial(nn.remat(Inception) if self.remat else Inception, self.settings())
        x, context = stem(self, images.astype(self.dtype), context)
        for name, widths in INCEPTION.items():
            if name in POOL_BEFORE:
                pool = POOL4[self.pool4] if name == "5a" else POOL
                x = MaxPool(pool, name=POOL_BEFORE[name])(x, context)
                context = context.after(pool)
            x = inception(widths, self.module, self.branch5x5, name=f"inception_{name}")(x, context)
            if name in AUXILIARY_AFTER and context.train and self.auxiliary:
                head = Auxiliary(
                    self.settings(),
                    self.num_classes,
                    self.auxiliary_pool(),
                    self.aux_dropout,
                    self.dropout_convention,
                    name=f"aux_{name}",
                )
                aux.append(head(x, context))
        x, context = _head(self, x, context)
        return x, tuple(aux), context

    def settings(self) -> "Settings":
        return Settings(self.width, self.dtype, self.kernel_init, self.init_bias)

    def auxiliary_pool(self) -> Window:
        """5x5/3 (section 5), or the whole feature map where image_size leaves less than 5x5."""
        side = map_side(self.trunk()[:-1], self.image_size)
        return AUXILIARY_POOL if side >= AUXILIARY_POOL.size else Window(side)


class Settings(NamedTuple):
    """The fields of a GoogLeNet that all its layers share, and the layers made from them."""

    width: float
    dtype: str
    kernel_init: str
    bias: float

    def conv(self, name: str, full: int, window: Window) -> Conv:
        kernel_init = initializers.fan_scaled(self.kernel_init, fully_connected=False)
        features = channels(full, self.width)
        return Conv(features, window, kernel_init, bias=self.bias, dtype=self.dtype, name=name)

    def hidden_layer(self, name: str, side: int) -> FullyConnected:
        layer = self._fully_connected(channels(HIDDEN, self.width), Window(side))
        return layer(bias=self.bias, name=name)

    def classifier(self, name: str, classes: int) -> FullyConnected:
        layer = self._fully_connected(classes, Window(1))
        return layer(activation="none", output_dtype="float32", name=name)

    def _fully_connected(self, features: int, window: Window) -> Callable[..., FullyConnected]:
        kernel_init = initializers.fan_scaled(self.kernel_init, fully_connected=True)
        return partial(FullyConnected, features, window, kernel_init, dtype=self.dtype)


class Inception(nn.Module):
    """An inception module (section 4, Figure 2b; Figure 2a when naive)."""

    settings: Settings
    widths: Widths
    module: str
    branch5x5: int

    window: ClassVar[Window] = Window(1)

    @nn.compact
    def __call__(self, x, context: Context):
        def conv(name: str, side: int, x):
            layer = self.settings.conv(name, getattr(self.widths, name), same(side))
            return layer(x, context)

        side, pooled = self.branch5x5, MaxPool(POOL_IN_MODULE, name="pool")(x, context)
        if self.module == "naive":
            branches = [conv("conv1x1", 1, x), conv("conv3x3", 3, x)]
            branches += [conv("conv5x5", side, x), pooled]
        else:
            branches = [
                conv("conv1x1", 1, x),
                conv("conv3x3", 3, conv("conv3x3_reduce", 1, x)),
                conv("conv5x5", side, conv("conv5x5_reduce", 1, x)),
                conv("pool_proj", 1, pooled),
            ]
        return jnp.concatenate(branches, axis=-1)


class Auxiliary(nn.Module):
    """An auxiliary classifier (section 5); it exists in training only."""

    settings: Settings
    num_classes: int
    pool: Window
    dropout: float
    convention: str

    @nn.compact
    def __call__(self, x, context: Context):
        x = AveragePool(self.pool, name="pool")(x)
        x = self.settings.conv("conv", AUXILIARY_CHANNELS, Window(1))(x)
        x = self.settings.hidden_layer("fc1", x.shape[1])(x)
        x = Dropout(self.dropout, self.convention, name="drop")(x, context)
        return self.settings.classifier("fc2", self.num_classes)(x)


def _stem(net: GoogLeNet, x, context: Context):
    """conv1 to pool2: the first LRN follows its pool, the second comes before its own."""
    layers, conv1 = net.settings(), CONV1_PADDING[net.conv1_padding]
    if net.stem == "separable":
        # slim's multiplier: a narrow stem has no more than its outputs a colour.
        features = 3 * max(1, min(DEPTHWISE_MULTIPLIER, channels(STEM_CHANNELS, net.width) // 3))
        kernel_init = initializers.fan_scaled(net.kernel_init, fully_connected=False)
        depthwise = partial(Conv, depthwise=True, activation="none", dtype=net.dtype)
        x = depthwise(features, conv1, kernel_init, name="conv1_depthwise")(x, context)
        context = context.after(conv1)
        x = layers.conv("conv1_pointwise", STEM_CHANNELS, Window(1))(x, context)
    else:
        x = layers.conv("conv1", STEM_CHANNELS, conv1)(x, context)
        context = context.after(conv1)
    x, context = MaxPool(POOL, name="pool1")(x, context), context.after(POOL)
    if net.lrn:
        x = LocalResponseNorm(net.lrn_constants, name="norm1")(x)
    x = layers.conv("conv2_reduce", STEM_CHANNELS, Window(1))(x, context)
    x = layers.conv("conv2", CONV2_CHANNELS, same(3))(x, context)
    if net.lrn:
        x = LocalResponseNorm(net.lrn_constants, name="norm2")(x)
    return MaxPool(POOL, name="pool2")(x, context), context.after(POOL)


def _head(net: GoogLeNet, x, context: Context):
    """From the last inception module to the class scores."""
    layers, window = net.settings(), Window(net.classifier_side())
    if net.head == "average":
        x = AveragePool(window, name="average_pool")(x, context)
    else:
        x = layers.hidden_layer("fc1", window.size)(x, context)
    context = context.after(window)
    x = Dropout(net.dropout, net.dropout_convention, name="drop")(x, context)
    return layers.classifier("fc", net.num_classes)(x, context), context
