"""Whether an exported file computes what jaxcnn computes: both are run on two images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

# Of the standard deviation of an output. Another order of summation gives 1e-6; a wrong layout gives 0.05.
TOLERANCE = 1e-4
_SMALLEST = 1e-30  # smaller probabilities are rounded to nothing on some processors


def probe_images(height: int, width: int) -> UInt8[np.ndarray, "2 H W 3"]:
    """Two images that no error of layout maps to themselves: gradients of different steepness along both
    axes, and noise."""
    y, x = np.ogrid[:height, :width]
    planes = [255 * x // max(1, width - 1) + 0 * y, 255 * y // max(1, height - 1) + 0 * x, x * y]
    gradients = np.stack(planes, axis=-1) % 256
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return np.stack([gradients, noise]).astype(np.uint8)


class Difference(NamedTuple):
    """The largest difference between outputs, in standard deviations of the output, and whether it is that of
    the same function."""

    deviations: float
    agrees: bool


def difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Difference:
    """Compares outputs by name with the expected ones.

    Logarithms of probabilities are compared: they differ as the class scores do, whether the net is sure or
    not. The rounding of an output itself is allowed, since the outputs of an untrained net are almost equal.
    """
    worst, agrees = 0.0, True
    for name in expected:
        wanted = _comparable(name, expected[name])
        got = _comparable(name, found[name]) if name in found else np.full((), np.nan)
        if got.shape != wanted.shape:
            return Difference(np.inf, False)
        distance, deviation = float(np.abs(got - wanted).max()), float(wanted.std())
        rounding = 16 * float(np.finfo(np.float32).eps * np.abs(wanted).max())
        agrees &= distance <= TOLERANCE * deviation + rounding  # False for NaN
        worst = max(worst, distance / max(deviation, 1e-30) if distance >= 0 else np.inf)
    return Difference(worst, agrees)


def _comparable(name: str, output: Any) -> np.ndarray:
    values = np.asarray(output, np.float64)
    return np.log(np.maximum(values, _SMALLEST)) if name == "probabilities" else values
