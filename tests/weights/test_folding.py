"""Folding is exact in inference; a moved mean is exact but at the border, within the bound that is said."""

import numpy as np
import pytest
from jax import lax

from jaxcnn.models.window import Window, same
from jaxcnn.weights.folding import (
    Convention,
    fold_batch_norm,
    fold_input,
    shift_mean,
    unfold_input,
)

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 3, 5)).astype(np.float32)
BIAS = RNG.normal(size=5).astype(np.float32)
PIXELS = RNG.integers(0, 256, (2, 9, 9, 3)).astype(np.float32)
TORCH = Convention("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def convolve(images, kernel, bias, window):
    numbers = ("NHWC", "HWIO", "NHWC")
    out = lax.conv_general_dilated(
        images, kernel, (window.stride,) * 2, window.padding, dimension_numbers=numbers,
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    return np.asarray(out, np.float64) + bias


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_folded_scale_is_exact_everywhere(order):
    convention = Convention(order, TORCH.mean, TORCH.divisor)
    theirs = (PIXELS - np.float32(convention.mean)) / np.float32(convention.divisor)
    theirs = theirs[..., ::-1] if order == "BGR" else theirs
    expected = convolve(theirs, KERNEL, BIAS, same(3))
    folded = fold_input(KERNEL, convention)
    found = convolve(PIXELS - np.float32(convention.mean), folded, BIAS, same(3))
    assert np.abs(found - expected).max() < 2e-6 * expected.std()
    np.testing.assert_allclose(unfold_input(folded, convention), KERNEL, rtol=1e-6)


def test_a_folded_batch_normalization_is_the_same_function():
    scale, offset, mean = RNG.normal(size=(3, 5))
    variance = RNG.uniform(0.5, 2, 5)
    out = convolve(PIXELS, KERNEL, 0.0, same(3))
    expected = (out - mean) / np.sqrt(variance + 1e-5) * scale + offset
    factor, added = fold_batch_norm(scale, offset, mean, variance, 1e-5)
    found = convolve(
        PIXELS, (KERNEL * factor).astype(np.float32), added.astype(np.float32), same(3)
    )
    assert np.abs(found - expected).max() < 1e-6 * expected.std()
    plain, without = fold_batch_norm(None, None, mean, variance, 1e-5)
    np.testing.assert_allclose(plain * scale, factor)
    np.testing.assert_allclose(without, -mean / np.sqrt(variance + 1e-5))


@pytest.mark.parametrize("window", [same(3), Window(3, 2, 1, 0), Window(3, 2)])
def test_a_moved_mean_is_exact_inside_and_within_its_bound_at_the_border(window):
    old, new = np.array([123.675, 116.28, 103.53]), np.array([123.68, 116.779, 103.939])
    shift = shift_mean(KERNEL, BIAS, old, new, window, 9)
    expected = convolve(PIXELS - np.float32(old), KERNEL, BIAS, window)
    found = convolve(PIXELS - np.float32(new), KERNEL, shift.bias, window)
    error = np.abs(found - expected)
    tolerance = 1e-5 * expected.std()
    inside = error[:, 1:-1, 1:-1] if window.before and window.after else error[:, 1:, 1:]
    assert inside.max() < tolerance
    if window.before:  # the bound is met, not only kept
        assert error.max() == pytest.approx(shift.bound, rel=1e-3)
        assert f"{shift.bound:.3g}" in shift.text()
    else:
        assert shift.bound == 0
        assert error.max() < tolerance
        assert (
            shift.text()
            == "exact for images of the net's size, of which the first layer reads no padding"
        )


def test_a_large_shift_is_refused_only_where_padding_is_read():
    old, new = np.zeros(3), np.full(3, 127.5)
    with pytest.raises(ValueError, match=r"differ by up to 127\.5 grey levels"):
        shift_mean(KERNEL, BIAS, old, new, same(3), 9)
    assert shift_mean(KERNEL, BIAS, old, new, Window(3, 2), 9).bound == 0
