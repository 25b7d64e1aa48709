"""A net's forward pass, compiled once for each input shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxcnn.evaluation.buckets import InputShape, transpose_kernels
from jaxcnn.parallel import Placement
from jaxcnn.preprocessing import subtract_mean

Batch = Mapping[str, Any]


def crop_posteriors(net: Any, mean: np.ndarray, params: Any, batch: Batch) -> Float[Array, "B K"]:
    """Log posteriors of crops. `batch`: image uint8[B,S,S,3], mirror bool[B], box int32[B,4] (top, left,
    height, width in the central square; only read where `mean` is a mean image)."""
    views = subtract_mean(batch["image"], mean, batch["box"])
    # As in training, the mean image is subtracted before the crop is mirrored.
    views = jnp.where(batch["mirror"][:, None, None, None], views[:, :, ::-1, :], views)
    logits, _ = net.apply({"params": params}, views, train=False)
    return jax.nn.log_softmax(logits, axis=-1)


def dense_posteriors(net: Any, mean: np.ndarray, params: Any, batch: Batch) -> Float[Array, "B K"]:
    """Log posteriors of whole images: scores averaged over positions, then softmax (Simonyan & Zisserman
    2014, section 3.2). `batch`: image uint8[B,H,W,3], padded; size int32[B,2], the true (height, width)."""
    images = batch["image"].astype(jnp.float32) - jnp.asarray(mean)[None, None, None, :]
    scores, valid = net.apply({"params": params}, images, batch["size"], method="score_map")
    return jax.nn.log_softmax(mean_scores(scores, valid), axis=-1)


def mean_scores(scores: Float[Array, "B h w K"], valid: Any) -> Float[Array, "B K"]:
    """The mean of a score map over its valid cells. Scores must be zero elsewhere."""
    cells: Int[Array, " B"] = jnp.sum(valid, axis=(1, 2), dtype=jnp.int32)
    return jnp.sum(scores, axis=(1, 2)) / jnp.maximum(cells, 1).astype(jnp.float32)[:, None]


@dataclasses.dataclass(eq=False)
class Forward:
    """The compiled forward passes of one net.

    Attributes:
        net: the net.
        mean: float32[3], or a mean image float32[S,S,3], which is subtracted from crops of the central
            square; from other images its mean is.
        placement: where arrays live.
        batch_size: crops per batch. Batches of larger images have about as many pixels.
        compiler: (description, lowered) -> compiled; a run prints and times compilations here.
    """

    net: Any
    mean: np.ndarray
    placement: Placement
    batch_size: int
    compiler: Callable[[str, Any], Any] = lambda _, lowered: lowered.compile()
    compiled: dict[InputShape, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")

    @property
    def mean_image(self) -> bool:
        """Whether `mean` is an image, subtracted from crops of the central square."""
        return self.mean.ndim == 3

    def rows(self, shape: InputShape) -> int:
        """Batch size at `shape`: a multiple of the number of devices."""
        area = shape.height * shape.width / self.net.image_size**2
        devices = self.placement.devices
        rows = self.batch_size if shape.kind != "dense" else self.batch_size / area
        return max(1, int(rows) // devices) * devices

    def empty(self, shape: InputShape) -> dict[str, np.ndarray]:
        """A batch of zeros at `shape`."""
        rows = self.rows(shape)
        batch: dict[str, np.ndarray] = {
            "image": np.zeros((rows, shape.height, shape.width, 3), np.uint8)
        }
        if shape.kind == "dense":
            return {**batch, "size": np.zeros((rows, 2), np.int32)}
        return {**batch, "box": np.zeros((rows, 4), np.int32), "mirror": np.zeros(rows, np.bool_)}

    def lower(self, params: Any, shape: InputShape) -> Any:
        """The lowered forward pass at `shape`. `params` may be abstract."""
        mean, replicated = self.mean, self.placement.replicated
        if self.mean_image and shape.kind != "square":
            mean = mean.mean(axis=(0, 1))
        function = dense_posteriors if shape.kind == "dense" else crop_posteriors
        batch = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=self.placement.batch)
            for name, array in self.empty(shape).items()
        }
        program = jax.jit(
            partial(function, self.net, mean),
            in_shardings=(replicated, self.placement.batch),
            out_shardings=replicated,
            compiler_options=self.placement.compiler_options,
        )
        return program.lower(params, batch)

    def __call__(self, params: Any, shape: InputShape, batch: Batch) -> Float[Array, "B K"]:
        """Log posteriors, float32 on the devices, of a batch of `rows(shape)` crops."""
        if shape not in self.compiled:
            size = f"{shape.height} x {shape.width}"
            kind = "whole images" if shape.kind == "dense" else "crops"
            self.compiled[shape] = self.compiler(
                f"evaluation of {kind} of {size}", self.lower(params, shape)
            )
        batch = self.placement.put_batch(batch)
        with jax.transfer_guard("disallow"):  # no implicit transfers
            return self.compiled[shape](params, batch)

    def transposed(self, params: Any) -> Any:
        """`params` for transposed images (`transpose_kernels`), on the devices."""
        return jax.jit(transpose_kernels, out_shardings=self.placement.replicated)(params)
