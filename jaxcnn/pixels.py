"""What the device does to a batch first: float, flip, minus the mean.

Pure functions of (key, images, box), shared by training, evaluation and prediction. An example's draws
come from its own key, made of (seed, epoch, id), so they do not depend on devices, workers or restarts.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8


@dataclasses.dataclass(frozen=True)
class Augment:
    """How a training view is made from an image, and what is subtracted from every view.

    Attributes:
        scale: (lowest, highest) shorter side S of the rescaled image that the crop is cut from; drawn
            uniformly for each image and epoch (Simonyan & Zisserman 2014, section 3.1). Equal values fix S.
        flip: mirror each training view with probability 0.5.
        mean: what is subtracted from R, G and B, on the 0..255 scale.
    """

    scale: tuple[int, int] = (256, 256)
    flip: bool = True
    mean: tuple[float, float, float] = (123.68, 116.779, 103.939)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"scale must be (lowest, highest) with 0 < lowest <= highest, got {self.scale}"
            )
        if not all(0 <= m <= 255 for m in self.mean):
            raise ValueError(f"mean must hold three values in 0..255 (RGB), got {self.mean}")


def centred(
    images: UInt8[Array, "B H W 3"], mean: tuple[float, float, float]
) -> Float[Array, "B H W 3"]:
    """Views as the nets take them: float32 RGB 0..255 minus the mean, not divided by a deviation."""
    return images.astype(jnp.float32) - jnp.asarray(mean, jnp.float32)[None, None, None, :]


def example_keys(key: Array, epochs: Int[Array, " B"], ids: Int[Array, " B"]) -> Array:
    """A key for each example, a function of (seed, epoch, id) alone. Padding (id -1) shares id 0's."""
    one = lambda epoch, index: jax.random.fold_in(jax.random.fold_in(key, epoch), index)  # noqa: E731
    return jax.vmap(one)(epochs, jnp.maximum(ids, 0))


def flips(keys: Array) -> Bool[Array, " B"]:
    """Which views are mirrored, each with probability 0.5."""
    return jax.vmap(jax.random.bernoulli)(keys)


def augmented(
    key: Array,
    images: UInt8[Array, "B H W 3"],
    epochs: Int[Array, " B"],
    ids: Int[Array, " B"],
    augment: Augment,
) -> Float[Array, "B H W 3"]:
    """Training views as the nets take them: mirrored by their own draw, then minus the mean."""
    if augment.flip:
        mirrored = flips(example_keys(key, epochs, ids))
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1, :], images)
    return centred(images, augment.mean)
