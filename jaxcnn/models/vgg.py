"""VGG (Simonyan and Zisserman 2014, arXiv 1409.1556v6): nets A, A-LRN, B, C, D and E."""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxcnn.models import initializers
from jaxcnn.models.classifier import HIDDEN, ClassifierNet
from jaxcnn.models.context import Context
from jaxcnn.models.layers import Conv, LocalResponseNorm, MaxPool
from jaxcnn.models.net import channels
from jaxcnn.models.window import Window, same

# Channels of the five blocks, the same in every column (Table 1).
BLOCK_CHANNELS = (64, 128, 256, 512, 512)
POOL = Window(2, 2)


class Column(NamedTuple):
    """A column of Table 1: the side of each convolution's kernel, block by block."""

    kernels: tuple[tuple[int, ...], ...]
    lrn_after: str = ""  # the convolution that one LRN follows, with AlexNet's constants


COLUMNS = {
    "A": Column(((3,), (3,), (3, 3), (3, 3), (3, 3))),
    "A-LRN": Column(((3,), (3,), (3, 3), (3, 3), (3, 3)), lrn_after="conv1_1"),
    "B": Column(((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))),
    "C": Column(((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))),
    "D": Column(((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))),
    "E": Column(((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))),
    # Section 4.1's shallow comparison: net B, one 5x5 for each pair of 3x3.
    "B-5x5": Column(((5,), (5,), (5,), (5,), (5,))),
}


class VGG(ClassifierNet):
    """VGG, by the column of Table 1.

    Layers: conv1_1 .. conv5_4, fc6, fc7, fc8, each but the last with a ReLU; pool1 .. pool5; norm1
    in A-LRN. Dropout follows fc6 and fc7 (section 3.1). Biases start at 0.

    Fields. column: a key of COLUMNS. kernel_init: 'glorot_uniform' or 'glorot_normal', with which
    every column trains from scratch (the paper's later finding, section 3.1); 'std_1e-2', a Gaussian of
    standard deviation 0.01; 'variance_1e-2', the paper's literal text, standard deviation 0.1,
    which diverges. For the other fields see `Net`.
    """

    column: str = "D"
    kernel_init: str = "glorot_uniform"

    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "column": tuple(COLUMNS),
        "kernel_init": ("glorot_uniform", "glorot_normal", *initializers.DEVIATIONS),
    }

    def trunk(self) -> tuple[Window, ...]:
        # The convolutions keep the size.
        return (POOL,) * len(BLOCK_CHANNELS)

    @nn.compact
    def forward(self, images, context: Context):
        x, full_inputs = images.astype(self.dtype), 3
        block = nn.remat(_block, static_argnums=(3, 4)) if self.remat else _block
        for number, full in enumerate(BLOCK_CHANNELS, start=1):
            x = block(self, x, context, number, full_inputs)
            context, full_inputs = context.after(POOL), full
        x, context = self.classify(x, context)
        return x, (), context

    def classifier_init(self, name: str, inputs: int) -> initializers.Initializer:
        full_inputs = BLOCK_CHANNELS[-1] if name == "fc6" else HIDDEN
        return self.initializer(inputs, full_inputs, fully_connected=True)

    def initializer(self, inputs: int, full_inputs: int, fully_connected: bool):
        """The kernel initializer of a layer, from its input channels here and at width 1."""
        if self.kernel_init in initializers.DEVIATIONS:
            std = initializers.DEVIATIONS[self.kernel_init]
            return initializers.gaussian(std, inputs, full_inputs)
        return initializers.fan_scaled(self.kernel_init, fully_connected)


def _block(net: VGG, x: jnp.ndarray, context: Context, number: int, full_inputs: int):
    """One block of Table 1: its convolutions, LRN where the column has it, and the pool."""
    column, full = COLUMNS[net.column], BLOCK_CHANNELS[number - 1]
    conv = partial(Conv, channels(full, net.width), dtype=net.dtype)
    for position, side in enumerate(column.kernels[number - 1], start=1):
        name = f"conv{number}_{position}"
        kernel_init = net.initializer(x.shape[-1], full_inputs, fully_connected=False)
        x = conv(same(side), kernel_init, name=name)(x, context)
        full_inputs = full
        if column.lrn_after == name:
            x = LocalResponseNorm("paper", name=f"norm{number}")(x)
    return MaxPool(POOL, name=f"pool{number}")(x, context)
