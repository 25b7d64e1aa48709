"""Nearest images in the last hidden layer of a net (Krizhevsky et al. 2012, section 6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from jaxcnn.data import EvalImage
from jaxcnn.evaluation.buckets import InputShape
from jaxcnn.evaluation.features import layer_names, layer_output
from jaxcnn.evaluation.forward import Batch
from jaxcnn.preprocessing import subtract_mean
from jaxcnn.research.evaluate_run import FinishedRun

# The input of the classifier, after the activation: the first of these layers that a net has.
HIDDEN = ("fc7", "fc1", "average_pool", "local4")


def last_hidden_layer(net: Any) -> str:
    """The name of the net's last hidden layer.

    Raises:
        ValueError: the net has none of `HIDDEN`.
    """
    names = layer_names(net)
    found = [name for name in HIDDEN if name in names]
    if not found:
        expected = f"expected one of the layers {', '.join(HIDDEN)}"
        raise ValueError(f"{expected}; {type(net).__name__} has {', '.join(names)}")
    return found[0]


def layer_values(
    net: Any, mean: np.ndarray, layer: str, params: Any, batch: Batch
) -> Float32[Array, "B d"]:
    """The flattened output of a layer for crops; `batch` as in `evaluation.forward.crop_posteriors`."""
    views = subtract_mean(batch["image"], mean, batch["box"])
    values = layer_output(net, {"params": params}, views, layer)
    return values.reshape(values.shape[0], -1)


class HiddenLayer:
    """The last hidden layer of a run's net for centre crops, compiled once."""

    def __init__(self, run: FinishedRun) -> None:
        forward, params = run.forward, run.params
        self.layer = last_hidden_layer(forward.net)
        side = forward.net.image_size
        self._run = run
        self._shape = InputShape("square" if forward.mean_image else "crop", side, side)
        replicated, sharded = forward.placement.replicated, forward.placement.batch
        program = jax.jit(
            partial(layer_values, forward.net, forward.mean, self.layer),
            in_shardings=(replicated, sharded),
            out_shardings=replicated,
        )
        lowered = program.lower(params, forward.empty(self._shape))
        self._compiled = forward.compiler(f"{self.layer} of {side} x {side}", lowered)

    def values(
        self, images: Iterable[EvalImage]
    ) -> Iterator[tuple[list[EvalImage], Float32[np.ndarray, "n d"]]]:
        """Batches of images, each with one crop, and their values."""
        images, rows = iter(images), self._run.forward.rows(self._shape)
        while batch := list(islice(images, rows)):
            yield batch, self._computed(batch)

    def _computed(self, images: Sequence[EvalImage]) -> Float32[np.ndarray, "n d"]:
        forward = self._run.forward
        batch = forward.empty(self._shape)
        for i, image in enumerate(images):
            ((crop, batch["image"][i]),) = image.pixels.items()
            batch["box"][i] = crop.in_square(*image.size) if forward.mean_image else crop.box
        self._run.check_stop()
        values = self._compiled(self._run.params, forward.placement.put_batch(batch))
        return np.asarray(values)[: len(images)]


def nearest_images(
    queries: Float[np.ndarray, "q d"],
    batches: Iterable[tuple[Sequence[EvalImage], Float[np.ndarray, "_ d"]]],
    count: int,
) -> tuple[list[list[tuple[float, EvalImage]]], int]:
    """For each query the `count` nearest images as (Euclidean distance, image), nearest first; and the number
    of images searched. Only these images are kept in memory."""
    rows: list[list[tuple[float, EvalImage]]] = [[] for _ in queries]
    searched = 0
    for images, values in batches:
        searched += len(images)
        for row, query in zip(rows, queries, strict=True):
            # Differences in float64: an image has distance 0 to itself.
            distances = np.linalg.norm(values.astype(np.float64) - query, axis=1)
            row += zip(distances.tolist(), images, strict=True)
            row.sort(key=lambda pair: pair[0])
            del row[count:]
    return rows, searched
