"""The weights of a net, read leaf by leaf, with what belongs to them: mean, classes, origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.models import Net, build


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter that is read when it is asked for.

    Attributes:
        shape: here: (H, W, I, O) of a kernel, (O,) of a bias.
        read: () -> float32, C-contiguous. Raises FileError.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class NetWeights:
    """A net with its weights.

    Attributes:
        model: the net's fields, as in the config's section `model`, with name, num_classes and width.
        leaves: its parameters by path, 'conv1_1/kernel'; auxiliary heads only where they were trained.
        mean: what is subtracted from RGB images of 0..255: float32[3], or a mean image float32[S,S,3] of the
            central squares.
        classes: class names by label.
        origin: the content of origin.json: where the weights come from and what was done to them.
    """

    model: Mapping[str, Any]
    leaves: Mapping[str, Leaf]
    mean: np.ndarray
    classes: tuple[str, ...]
    origin: Mapping[str, Any]

    @property
    def net(self) -> Net:
        fields = dict(self.model)
        return build(fields.pop("name"), **fields)

    def params(self) -> dict[str, Any]:
        """All parameters as a tree of float32 NumPy arrays."""
        return unflatten_dict({path: leaf.read() for path, leaf in self.leaves.items()}, sep="/")


def param_shapes(net: Net, train: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a net by path, in the order of the layers; with `train`, also those of
    auxiliary heads."""
    side = net.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables = jax.eval_shape(partial(net.init, train=train), keys, images)
    return {path: leaf.shape for path, leaf in flatten_dict(variables["params"], sep="/").items()}  # pyright: ignore[reportAttributeAccessIssue]
