"""A net as a function of uint8 images: what every exported program computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jaxtyping import Array, Float32, UInt8

from jaxcnn.evaluation.features import check_layer, layer_output
from jaxcnn.evaluation.forward import mean_scores
from jaxcnn.models import Net
from jaxcnn.models.kernels.dispatch import plain_forms

INPUT = "images"
# A batch of any size, and where a program runs.
BATCH = "b"
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function of (weights, images); `make_program` makes it.

    Attributes:
        net: the net. It computes in float32.
        weights: the parameters that it needs, by path: 'conv1_1/kernel'.
        mean: what is subtracted: float32[1,1,3], or float32[H,W,3] of the images' size.
        classes: class names by label.
        features: the layer that is put out; '' for none.
        dense: (height, width) of the images of a score map; None for images of the net's image_size.
        unused: shapes of the parameters of layers after `features`.
    """

    net: Net
    weights: Mapping[str, Any]
    mean: np.ndarray
    classes: tuple[str, ...]
    features: str = ""
    dense: tuple[int, int] | None = None
    unused: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.dense or (self.net.image_size, self.net.image_size)

    @property
    def what(self) -> str:
        """What it puts out, in words."""
        if self.features:
            return f"output of {self.features}"
        return "score map" if self.dense else "probabilities"

    def arguments(self) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
        """Abstract (weights, images) of a batch of any size."""
        (batch,) = export.symbolic_shape(BATCH)
        weights = {
            path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
            for path, leaf in self.weights.items()
        }
        return weights, jax.ShapeDtypeStruct((batch, *self.size, 3), jnp.uint8)

    def __call__(
        self, weights: Mapping[str, Any], images: UInt8[Array | np.ndarray, "B H W 3"]
    ) -> dict[str, Float32[Array, "B ..."]]:
        """The outputs by name: 'probabilities' [B,K]; of a score map also 'scores' [B,h,w,K], the class
        scores before the softmax of their mean over positions; or, alone, 'features'."""
        zeros = {path: jnp.zeros(shape) for path, shape in self.unused.items()}
        variables = {"params": unflatten_dict({**zeros, **weights}, sep="/")}
        views = jnp.asarray(images).astype(jnp.float32) - jnp.asarray(self.mean)[None]
        if self.dense:
            sizes = jnp.broadcast_to(jnp.array([self.dense], jnp.int32), (views.shape[0], 2))
            scores, valid = self.net.apply(variables, views, sizes, method="score_map")  # pyright: ignore[reportGeneralTypeIssues]
            means = mean_scores(scores, valid)
            return {"probabilities": jax.nn.softmax(means), "scores": scores}
        if self.features:
            return {"features": layer_output(self.net, variables, views, self.features)}
        logits, _ = self.net.apply(variables, views, train=False)  # pyright: ignore[reportGeneralTypeIssues]
        return {"probabilities": jax.nn.softmax(logits)}


def make_program(
    net: Net,
    params: Mapping[str, Any],
    mean: np.ndarray,
    classes: tuple[str, ...],
    *,
    features: str = "",
    dense: tuple[Any, Any] | None = None,
) -> Program:
    """The program of a trained net. It computes in float32, also if the net was trained in bfloat16.

    Args:
        params: a tree of arrays; auxiliary heads are left out.
        mean: float32[3], or a mean image float32[S,S,3]: images are its central squares, as for
            `Loaded.probabilities`; a score map subtracts its mean colour.
        features: a layer to put out.
        dense: (height, width) of the images of a score map.

    Raises:
        ValueError: what is asked for does not exist, or not together.
    """
    net = net.clone(dtype="float32")
    if dense and features:
        raise ValueError("a program puts out a layer or a score map, not both")
    if features:
        check_layer(net, features)
    if dense:
        _check_dense(net, dense)
    leaves: dict[str, Any] = flatten_dict(dict(params), sep="/")  # pyright: ignore[reportAssignmentType]
    weights = {path: leaf for path, leaf in leaves.items() if not path.startswith("aux_")}
    mean = _mean(mean, net.image_size, dense)
    program = Program(net, weights, mean, classes, features, dense)
    return _without_unused(program) if features else program


def _without_unused(program: Program) -> Program:
    """The program without the parameters of layers after the one that is put out."""
    with plain_forms():
        weights, images = program.arguments()
        jaxpr = jax.make_jaxpr(lambda *arguments: program(*arguments))(weights, images).jaxpr
    needed = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed & set(map(id, equation.outvars)):
            needed |= set(map(id, equation.invars))
    # The order of a dict's leaves is that of its keys.
    variables = dict(zip(sorted(weights), jaxpr.invars[:-1], strict=True))
    unused = {path: weights[path].shape for path, v in variables.items() if id(v) not in needed}
    used = {path: leaf for path, leaf in program.weights.items() if path not in unused}
    return dataclasses.replace(program, weights=used, unused=unused)


def _check_dense(net: Net, dense: tuple[Any, Any]) -> None:
    if not all(type(side) is int for side in dense):
        raise ValueError(
            f"the sides of a score map's images must be numbers, got {dense[0]!r}, {dense[1]!r}: the size of "
            "the map depends on them. Only the batch may be of any size: export one program for each size "
            "of images"
        )
    if not net.supports_dense():
        raise ValueError(
            f"{type(net).__name__} has no score map: its layers fix the size of images"
        )
    smallest = net.min_image_size()
    if min(dense) < smallest:
        raise ValueError(
            f"images of {dense[0]} x {dense[1]} are too small for a score map of {type(net).__name__} with "
            f"image_size={net.image_size}: the smallest side is {smallest}"
        )


def _mean(mean: np.ndarray, side: int, dense: tuple[int, int] | None) -> np.ndarray:
    mean = np.asarray(mean, np.float32)
    if mean.ndim == 1:
        return mean[None, None]
    if dense:
        return mean.mean(axis=(0, 1), keepdims=True)
    edge = (mean.shape[0] - side) // 2
    if edge < 0:
        raise ValueError(
            f"the mean image of side {mean.shape[0]} is smaller than images of side {side}"
        )
    return mean[edge : edge + side, edge : edge + side]
