"""Class score maps of whole images, and where their cells are (Simonyan & Zisserman 2014, section 3.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from jaxcnn.evaluation.buckets import bucket
from jaxcnn.evaluation.forward import mean_scores
from jaxcnn.models.net import Net
from jaxcnn.models.summary import ReceptiveField
from jaxcnn.models.window import Window, min_input_size
from jaxcnn.training.load_run import Loaded

CELLS = 4  # per side of the smallest map that is worth drawing


class ClassMap(NamedTuple):
    """The most probable class of an image (mean of the score map, then softmax), its probability and its
    score in each cell."""

    label: int
    probability: float
    scores: Float32[np.ndarray, "h w"]


class ClassMaps:
    """The score maps of a net on the first device, compiled once per shape."""

    def __init__(self, loaded: Loaded) -> None:
        net, params, mean = loaded.net, loaded.variables["params"], loaded.mean
        # A mean image only covers central squares; from other images its mean is subtracted.
        plain = mean if mean.ndim == 1 else mean.mean(axis=(0, 1))

        def dense(
            params: Any, images: UInt8[Array, "1 H W 3"], sizes: Int[Array, "1 2"]
        ) -> tuple[Float[Array, "1 h w K"], Bool[Array, "1 h w"], Float[Array, "1 K"]]:
            views = images.astype(jnp.float32) - jnp.asarray(plain)[None, None, None, :]
            scores, valid = net.apply({"params": params}, views, sizes, method="score_map")
            return scores, valid, jax.nn.softmax(mean_scores(scores, valid), axis=-1)

        self._dense, self._params = jax.jit(dense), params

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> ClassMap:
        """The map of a whole rescaled image.

        Raises:
            CorruptImage: the aspect ratio is too large for dense evaluation.
        """
        height, width = image.shape[:2]
        _, short, long = bucket(height, width)  # images of similar shapes share a program
        padded = np.zeros((1, *((short, long) if height <= width else (long, short)), 3), np.uint8)
        padded[0, :height, :width] = image
        size = np.array([[height, width]], np.int32)
        scores, valid, posterior = map(np.asarray, self._dense(self._params, padded, size))
        label = int(posterior[0].argmax())
        down, across = valid[0].any(axis=1).sum(), valid[0].any(axis=0).sum()
        return ClassMap(label, float(posterior[0, label]), scores[0, :down, :across, label])


def map_scale(net: Net) -> int:
    """The shorter side to draw a map at: twice that of the net's images, or more to get 4 cells per side."""
    return max(2 * net.image_size, min_input_size(net.trunk(), net.classifier_side() + CELLS - 1))


def cell_field(net: Net) -> ReceptiveField:
    """The receptive field of a cell of the net's score map."""
    field = ReceptiveField()
    for window in (*net.trunk(), Window(net.classifier_side())):
        field = field.after(window)
    return field


def cell_centres(net: Net, cells: int) -> Float[np.ndarray, " cells"]:
    """The centres of the receptive fields of the first `cells` cells of a row or column of the score map, in
    pixels from the edge: pixel 0 spans 0 to 1, so a field over the first 224 has its centre at 112."""
    field = cell_field(net)
    return field.start + field.size / 2 + field.stride * np.arange(cells)
