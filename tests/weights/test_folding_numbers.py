"""Folding into the first layer of Oxford's real VGG-16: scales are exact, shifts of the mean bounded.

The errors of conv1_1 do not depend on the image; those of pool5 are of one drawn image.
"""

import jax
import numpy as np
import pytest
from jax import lax

from jaxcnn.models.window import same
from jaxcnn.weights import folding
from tests.weights.test_oxford_trunk import file, pool5, trunk  # noqa: F401

pytestmark = pytest.mark.slow

SIDE = 224
OWN = 255 * np.array([0.485, 0.456, 0.406])
# Another mean: the largest error of conv1_1 at the border.
BORDER = {(123.68, 116.779, 103.939): 1.3, (127.5, 127.5, 127.5): 54, (0.0, 0.0, 0.0): 497}


@pytest.fixture(scope="module")
def image():
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([255 * x // 223, 255 * y // 223, x * y % 256], -1).astype(np.float64)


@jax.jit
def conv1_1(kernel, bias, image):
    numbers = ("NHWC", "HWIO", "NHWC")
    return (
        lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        + bias[None, None, None]
    )


def centred(image, mean):
    return (image - np.asarray(mean))[None].astype(np.float32)


def relative(found, wanted):
    """The root mean square of the error, relative to that of the values."""
    return np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())


@pytest.mark.parametrize("mean", BORDER, ids=str)
def test_a_shift_is_exact_inside_and_bounded_at_the_border(mean, image, trunk, monkeypatch):  # noqa: F811
    kernel, bias = trunk["conv1_1/kernel"], trunk["conv1_1/bias"]
    if BORDER[mean] > 2:
        with pytest.raises(ValueError, match="keep the mean of the weights"):
            folding.shift_mean(kernel, bias, OWN, np.array(mean), same(3), SIDE)
    monkeypatch.setattr(folding, "LARGEST_SHIFT", np.inf)
    shift = folding.shift_mean(kernel, bias, OWN, np.array(mean), same(3), SIDE)
    assert abs(shift.bound / BORDER[mean] - 1) < 0.1
    wanted = np.asarray(conv1_1(kernel, bias, centred(image, OWN)))
    error = np.abs(np.asarray(conv1_1(kernel, shift.bias, centred(image, mean))) - wanted)[0]
    assert error[1:-1, 1:-1].max() < 1e-5 * wanted.std()
    assert abs(error.max() / shift.bound - 1) < 1e-3
    assert (error.max(-1) > 0.01 * shift.bound).sum() == 4 * (SIDE - 1)
    maps = np.asarray(pool5(trunk, centred(image, OWN)))
    shifted = np.asarray(pool5({**trunk, "conv1_1/bias": shift.bias}, centred(image, mean)))
    left = np.asarray(pool5(trunk, centred(image, mean)))
    assert 1e-4 < relative(shifted, maps) < 0.6 * relative(left, maps)
    assert (relative(shifted, maps) < 1e-3) == (BORDER[mean] < 2)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_scale_is_folded_exactly(order, image, trunk):  # noqa: F811
    """Of the convention with which torchvision feeds its nets, with d = 0: borders included."""
    divisor = 255 * np.array([0.229, 0.224, 0.225])
    convention = folding.Convention(order, tuple(OWN), tuple(divisor))
    bias = trunk["conv1_1/bias"]
    stored = folding.unfold_input(trunk["conv1_1/kernel"], convention)
    fed = ((image - OWN) / divisor)[None].astype(np.float32)
    fed = fed[..., ::-1] if order == "BGR" else fed
    wanted = np.asarray(conv1_1(stored.astype(np.float32), bias, fed))
    folded = folding.fold_input(stored, convention).astype(np.float32)
    found = np.asarray(conv1_1(folded, bias, centred(image, OWN)))
    assert np.abs(found - wanted).max() < 2e-6 * np.abs(wanted).max()
    wrong = np.asarray(conv1_1(folded[:, :, ::-1], bias, centred(image, OWN)))
    assert np.abs(wrong - wanted).max() > 0.1 * wanted.std()
