"""Preprocessing on the device: colour jitter, PCA lighting, mean subtraction, horizontal flip.

Pure functions of (key, images, box). An example's draws come from its own key, a function of (seed, epoch,
id), so they do not depend on devices, workers or restarts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from jaxcnn.data.pixel_statistics import Statistics, eigen
from jaxcnn.data.train_crops import Sampling

# Rec. 601 luma, as in Pillow's conversion to grey.
LUMA = (0.299, 0.587, 0.114)
# The six orders of brightness (0), colour (1) and contrast (2).
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
# (Power of the standard deviation on the 0..255 scale, factor). 'unit': eigenvalues of pixels of 0..1, the
# shift scaled back to 0..255. 'deviation': their square roots, as in Krizhevsky's cuda-convnet2.
_PCA_SCALES = {"unit": (2, 1 / 255), "deviation": (1, 1.0)}
_PCA_BYTE_REFUSED = (
    "pca='byte', the formula of Krizhevsky et al. 2012, section 4.1, on pixels of 0..255, is refused: "
    "its eigenvalues (14830 on ImageNet) would shift images by some 1480 grey levels; give 'unit' (the "
    "formula on pixels of 0..1) or 'deviation' (roots of the eigenvalues, as in cuda-convnet2)"
)


@dataclasses.dataclass(frozen=True)
class Augment(Sampling):
    """Training augmentation, and the mean that is subtracted from every image.

    `Sampling` defines the crop, on the host. The rest happens on the device, in this order: colour jitter,
    PCA lighting, mean, flip.

    Attributes:
        flip: probability of a horizontal flip.
        color_jitter: bounds of the factors of brightness, colour and contrast, drawn uniformly and applied in
            a random order (Howard 2013, cited in Szegedy et al. 2014, section 6: 0.5 to 1.5). (1, 1) is off.
        pca: the PCA lighting of Krizhevsky et al. 2012, section 4.1: 'off'; 'unit', its formula on
            pixels of 0..1; 'deviation', Krizhevsky's later code, with square roots of the eigenvalues.
        pca_std: standard deviation of its draws; 0.1 in the paper.
        mean: what is subtracted: three values for R, G and B on the 0..255 scale; 'rgb', the training
            set's; 'per_pixel', the mean of the training set's central squares at each pixel.
        statistics: the source of the mean and the principal components, where they are needed: 'imagenet',
            Krizhevsky's of ImageNet, which have no mean image; 'auto', computed from the training images at
            the first start and kept in the workdir; or a file of `jaxcnn statistics`.
    """

    flip: float = 0.5
    color_jitter: tuple[float, float] = (1.0, 1.0)
    pca: str = "off"
    pca_std: float = 0.1
    mean: tuple[float, float, float] | str = (123.68, 116.779, 103.939)
    statistics: str = "imagenet"

    def problems(self) -> list[str]:
        found = super().problems()
        if not 0 <= self.flip <= 1:
            found.append(f"flip is a probability and must lie in [0, 1], got {self.flip}")
        if not 0 <= self.color_jitter[0] <= self.color_jitter[1] < math.inf:
            found.append(
                f"color_jitter must be (lowest, highest) with 0 <= lowest <= highest, got {self.color_jitter}"
            )
        if self.pca == "byte":
            found.append(_PCA_BYTE_REFUSED)
        elif self.pca not in ("off", *_PCA_SCALES):
            found.append(f"pca must be one of off, {', '.join(_PCA_SCALES)}; got {self.pca!r}")
        if not 0 <= self.pca_std < math.inf:
            found.append(f"pca_std must be 0 or more and finite, got {self.pca_std}")
        if not self.statistics:
            found.append("statistics must be 'imagenet', 'auto' or a file, got ''")
        return found + self._mean_problems()

    def _mean_problems(self) -> list[str]:
        if not isinstance(self.mean, str):
            if all(0 <= m <= 255 for m in self.mean):
                return []
            return [f"mean must hold three values in 0..255 (RGB), got {self.mean}"]
        if self.mean not in ("rgb", "per_pixel"):
            return [f"mean must be three values (RGB), 'rgb' or 'per_pixel', got {self.mean!r}"]
        found = []
        if self.statistics == "imagenet":
            found.append(
                f"mean={self.mean!r} is that of the training images, and statistics='imagenet' is not "
                "computed from them; give statistics='auto', or a file of jaxcnn statistics"
            )
        if self.mean == "per_pixel" and not (self.from_square and self.scale[0] == self.scale[1]):
            found.append(
                "mean='per_pixel' is a mean of central squares of one size: it needs "
                "sampling='random_crop_in_square' or 'center_crop' and one scale, got "
                f"sampling={self.sampling!r} and scale={self.scale}; or give mean='rgb'"
            )
        return found

    def lines(self) -> list[tuple[str, str]]:
        """Returns (name, text) rows for the console: mean and PCA lighting, and the statistics they use."""
        origin = {
            "imagenet": "Krizhevsky's statistics of ImageNet",
            "auto": "statistics of the training images",
        }.get(self.statistics, f"statistics in {self.statistics}")
        mean = f"mean {self.mean}" + (f" from {origin}" if isinstance(self.mean, str) else "")
        off = self.pca == "off"
        pca = "no PCA lighting" if off else f"PCA lighting '{self.pca}' from {origin}"
        return [("pixels", f"{mean}, {pca}")]

    @property
    def needs_statistics(self) -> bool:
        """Whether anything of `statistics` is used."""
        return self.pca != "off" or isinstance(self.mean, str)


@dataclasses.dataclass(frozen=True, eq=False)
class DevicePreprocess:
    """The device's part of `Augment`, with the statistics filled in."""

    mean: np.ndarray  # float32[3], or float32[S,S,3] of the central squares
    flip: float
    color_jitter: tuple[float, float]
    pca_std: float
    shifts: np.ndarray | None  # of `pca_lighting`; None for off


def make_preprocess(augment: Augment, statistics: Statistics | None) -> DevicePreprocess:
    """Returns the device preprocessing of `augment`, from the training set's statistics where it needs them.

    Raises:
        ValueError: statistics are needed and None, or have no mean image of the right side.
    """
    if statistics is None and augment.needs_statistics:
        raise ValueError("augment needs statistics of the data, and none were given")
    mean = augment.mean
    if statistics is not None and mean == "rgb":
        mean = statistics.mean
    elif statistics is not None and mean == "per_pixel":
        mean, side = statistics.mean_image, augment.scale[0]
        if mean is None or mean.shape[0] != side:
            there = "no mean image" if mean is None else f"a mean image of side {mean.shape[0]}"
            raise ValueError(
                f"augment.mean='per_pixel' at scale {side} needs a mean image of side {side}, the "
                f"statistics hold {there}; compute them again: jaxcnn statistics"
            )
    shifts = None
    if statistics is not None and augment.pca != "off":
        shifts = pca_lighting(*eigen(statistics), augment.pca).astype(np.float32)
    return DevicePreprocess(
        np.asarray(mean, np.float32), augment.flip, augment.color_jitter, augment.pca_std, shifts
    )


def pca_lighting(
    values: Float[np.ndarray, 3], vectors: Float[np.ndarray, "3 3"], pca: str
) -> Float[np.ndarray, "3 3"]:
    """Returns the shifts of R, G and B on the 0..255 scale; row i is for a draw of 1 along component i.

    The paper adds `[p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T`, which depends on the unit of pixels. `values` are the
    eigenvalues l of the covariance of pixels of 0..255, `vectors` has the eigenvectors p as columns.
    """
    power, factor = _PCA_SCALES[pca]
    return (np.sqrt(values) ** power * factor * vectors).T


def subtract_mean(
    images: UInt8[Array, "B H W 3"] | Float32[Array, "B H W 3"],
    mean: Float32[Array | np.ndarray, ...],
    box: Int[Array, "B 4"],
) -> Float32[Array, "B H W 3"]:
    """Returns the nets' input: float32 RGB 0..255 minus the mean, not divided by a standard deviation.

    `mean` is float32[3], or a mean image float32[S,S,3], which is cropped like each image: `box` is (top,
    left, height, width) in the central square of side S.
    """
    images, mean = images.astype(jnp.float32), jnp.asarray(mean)
    if mean.ndim == 1:
        return images - mean[None, None, None, :]
    size = (*images.shape[1:3], 3)
    crop = lambda top, left: jax.lax.dynamic_slice(mean, (top, left, jnp.zeros_like(top)), size)  # noqa: E731
    return images - jax.vmap(crop)(box[:, 0], box[:, 1])


def example_keys(key: Array, epochs: Int[Array, " B"], ids: Int[Array, " B"]) -> Array:
    """Returns one key per example, a function of (seed, epoch, id) alone. Padding (id -1) has id 0's key."""
    one = lambda epoch, index: jax.random.fold_in(jax.random.fold_in(key, epoch), index)  # noqa: E731
    return jax.vmap(one)(epochs, jnp.maximum(ids, 0))


def flip_mask(keys: Array, probability: float = 0.5) -> Bool[Array, " B"]:
    """Draws which images are flipped."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def normals(keys: Array) -> Float32[Array, "B 3"]:
    """Draws three values from N(0, 1) for each image."""
    return jax.vmap(lambda key: jax.random.normal(key, (3,), jnp.float32))(keys)


def draw_color_jitter(
    keys: Array, bounds: tuple[float, float]
) -> tuple[Float32[Array, "B 3"], Int[Array, " B"]]:
    """Draws each image's (factors of brightness, colour, contrast, uniform in `bounds`; row of `ORDERS`)."""

    def draw(key: Array) -> tuple[Array, Array]:
        first, second = jax.random.split(key)
        factors = jax.random.uniform(first, (3,), jnp.float32, *bounds)
        return factors, jax.random.randint(second, (), 0, len(ORDERS))

    return jax.vmap(draw)(keys)


def color_jitter(
    images: Float32[Array, "B H W 3"], factors: Float32[Array, "B 3"], order: Int[Array, " B"]
) -> Float32[Array, "B H W 3"]:
    """Changes brightness, colour and contrast, in each image's own order (Howard 2013).

    Each step blends with a base image: out = base + factor * (in - base), clipped to 0..255. The base is
    black for brightness, the grey image for colour, and the rounded mean of the grey image for contrast, as
    in Pillow; unlike Pillow, values between the steps are not rounded.
    """
    luma, steps = jnp.asarray(LUMA, jnp.float32), jnp.asarray(ORDERS)[order]
    for position in range(3):
        step = steps[:, position, None, None, None]
        factor = jnp.take_along_axis(factors, steps[:, position, None], axis=1)[:, :, None, None]
        grey = jnp.sum(images * luma[None, None, None, :], axis=-1, keepdims=True)
        flat = jnp.round(jnp.mean(grey, axis=(1, 2), keepdims=True))
        base = jnp.where(step == 0, 0.0, jnp.where(step == 1, grey, flat))
        images = jnp.clip(base + factor * (images - base), 0.0, 255.0)
    return images


def augment_batch(
    key: Array, batch: Mapping[str, Array], device_preprocess: DevicePreprocess
) -> Float32[Array, "B H W 3"]:
    """Returns the nets' input for a training batch; `key` is made from the data's seed."""
    keys, images = example_keys(key, batch["epoch"], batch["id"]), batch["image"]
    # Flips use the example's key itself, the others keys folded from it: this keeps the draws of older runs.
    purpose = lambda number: jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)  # noqa: E731
    if device_preprocess.color_jitter != (1.0, 1.0):
        draws = draw_color_jitter(purpose(1), device_preprocess.color_jitter)
        images = color_jitter(images.astype(jnp.float32), *draws)
    if device_preprocess.shifts is not None:
        draws = device_preprocess.pca_std * normals(purpose(2))
        shifts = jnp.matmul(draws, jnp.asarray(device_preprocess.shifts), precision="highest")
        images = images.astype(jnp.float32) + shifts[:, None, None, :]
    # The mean image is subtracted before the flip.
    images = subtract_mean(images, device_preprocess.mean, batch["box"])
    if device_preprocess.flip > 0:
        flipped = flip_mask(keys, device_preprocess.flip)
        images = jnp.where(flipped[:, None, None, None], images[:, :, ::-1, :], images)
    return images
