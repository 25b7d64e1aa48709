"""LRN, pools and dropout against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import ops
from jaxcnn.models.context import UNSHARDED, Layout
from jaxcnn.models.googlenet import AUXILIARY_POOL, CONV1, CONV1_PADDING, POOL, POOL_IN_MODULE
from jaxcnn.models.kernels import dispatch
from jaxcnn.models.ops import LRN_CONSTANTS, LrnConstants, Window


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


lrn = jax.jit(ops.lrn, static_argnums=range(1, 6))


# For maps 1..7 at one pixel, and for 100 in every map at the middle one.
LRN_BY_HAND = {
    LRN_CONSTANTS["paper"]: (
        [
            0.5942915817,
            1.187871011,
            1.780140350,
            2.370418559,
            2.958055233,
            3.550856725,
            4.145137937,
        ],
        23.2368080243,
    ),
    LRN_CONSTANTS["cuda_convnet2"]: (
        [
            0.5945411318,
            1.188939614,
            1.783075205,
            2.376810064,
            2.970011158,
            3.564253656,
            4.158794369,
        ],
        43.8691337651,
    ),
    LRN_CONSTANTS["caffe"]: (
        [
            0.9997900514,
            1.999100472,
            2.997527380,
            3.994608491,
            4.989898861,
            5.988684947,
            6.988472189,
        ],
        59.4603557501,
    ),
    LRN_CONSTANTS["cifar10"]: (
        [
            0.9954410383,
            1.984966284,
            2.965469694,
            3.953959591,
            4.942449489,
            5.931426108,
            6.922269579,
        ],
        19.6092761971,
    ),
    LrnConstants(2.0, 5, 1.0, 0.75, False): (
        [0.125, 0.1486508894, 0.1446155897, 0.1346539572, 0.1248617964, 0.1576680779, 0.2033220702],
        None,
    ),
}


@pytest.mark.parametrize("constants", LRN_BY_HAND)
def test_lrn_by_hand(constants):
    ramp, middle = LRN_BY_HAND[constants]
    rows = np.stack([np.arange(1, 8), np.zeros(7), np.full(7, 100)]).astype(np.float32)
    found = np.asarray(lrn(rows, *constants))
    assert_allclose(found[0], ramp, rtol=1e-6)
    assert_array_equal(found[1], np.zeros(7))
    if middle is not None:
        assert_allclose(found[2, 3], middle, rtol=1e-6)


def test_lrn_keeps_pixels_and_images_apart():
    x = 50 * np.asarray(normal(2, 3, 4, 7))
    y = np.asarray(lrn(x, *LRN_CONSTANTS["paper"]))
    assert_allclose(y[1, 2, 3], lrn(x[1, 2, 3], *LRN_CONSTANTS["paper"]), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_lrn_gradient(beta):
    """Against finite differences of the printed formula in float64, edge channels included."""

    def formula(a):
        square = np.pad(a * a, 2)
        sums = np.stack([square[i : i + 5].sum() for i in range(len(a))])
        return np.sum(np.arange(1, len(a) + 1) * a / (2 + 0.5 * sums) ** beta)

    a = np.array([1.0, -2.0, 0.5, 3.0, 0.1, -1.5, 2.0])
    steps = 1e-6 * np.eye(7)
    expected = [(formula(a + step) - formula(a - step)) / 2e-6 for step in steps]
    weights = jnp.arange(1.0, 8.0)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * ops.lrn(x, 2.0, 5, 0.5, beta))))
    assert_allclose(gradient(jnp.asarray(a, jnp.float32)), expected, rtol=1e-4, atol=1e-5)


def test_lrn_sums_are_float32():
    """In bfloat16 1 + 2e-5 · 100² · 5 would lose its terms; only the result is rounded."""
    x = (100 + 3 * normal(5, 32)).astype(jnp.bfloat16)
    exact = lrn(x.astype(jnp.float32), *LRN_CONSTANTS["caffe"])
    y = lrn(x, *LRN_CONSTANTS["caffe"])
    assert y.dtype == jnp.bfloat16
    assert_array_equal(y.astype(jnp.float32), exact.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("window", [Window(3, 1, 1, 1), Window(2, 2), Window(3, 2, 0, 1)])
def test_local_convolution_is_a_loop_over_positions(window):
    """In value and in both gradients; an image at a time, a position at a time, in float64."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 6, 5, 3))
    rows, columns, side = window.out(6), window.out(5), window.size
    kernel = generator.normal(size=(rows, columns, side, side, 3, 4))
    seed = generator.normal(size=(2, rows, columns, 4))
    padded = np.pad(x, ((0, 0), *window.padding, (0, 0)))
    expected = np.zeros(seed.shape)
    of_x, of_kernel = np.zeros(padded.shape), np.zeros(kernel.shape)
    for b, i, j in np.ndindex(2, rows, columns):
        top, left = i * window.stride, j * window.stride
        here = (b, slice(top, top + side), slice(left, left + side))
        expected[b, i, j] = np.einsum("hwc,hwco->o", padded[here], kernel[i, j])
        of_x[here] += np.einsum("hwco,o->hwc", kernel[i, j], seed[b, i, j])
        of_kernel[i, j] += np.einsum("hwc,o->hwco", padded[here], seed[b, i, j])
    of_x = of_x[:, window.before :, window.before :][:, :6, :5]

    @jax.jit
    def value_and_gradients(x, kernel, seed):
        y, pull = jax.vjp(lambda x, kernel: ops.convolve_locally(x, kernel, window), x, kernel)
        return y, *pull(seed)

    found = value_and_gradients(*(np.float32(a) for a in (x, kernel, seed)))
    for ours, theirs in zip(found, (expected, of_x, of_kernel), strict=True):
        assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_local_convolution_with_equal_kernels_is_a_convolution():
    x, kernel, window = normal(2, 7, 7, 3), normal(3, 3, 3, 4, seed=1), Window(3, 1, 1, 1)

    @jax.jit
    def both(x, kernel):
        everywhere = jnp.broadcast_to(kernel[None, None], (7, 7, 3, 3, 3, 4))
        return ops.convolve_locally(x, everywhere, window), dispatch.convolve(x, kernel, window)

    assert_allclose(*both(x, kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [0, 4])
def test_lrn_refuses_even_windows(n):
    with pytest.raises(ValueError, match=f"n is {n}.*odd n"):
        ops.lrn(jnp.ones(4), 2.0, n, 1e-4, 0.75)


max_pool = jax.jit(dispatch.max_pool, static_argnums=1)


def caffe_ceil_pool(x, size, stride):
    """Caffe's rule: a last window may hang over the edge, and counts only what is there."""
    out = -(-(x.shape[0] - size) // stride) + 1
    edges = range(0, out * stride, stride)
    return np.array([[x[i : i + size, j : j + size].max() for j in edges] for i in edges])


@pytest.mark.parametrize("side", [112, 56, 28, 14, 13, 7])
def test_googlenet_pool_is_caffes_ceil_pool(side):
    x = -np.abs(np.random.default_rng(0).normal(size=(side, side))).astype(np.float32) - 1
    y = np.asarray(max_pool(x[None, :, :, None], POOL))[0, :, :, 0]
    assert y.shape == (POOL.out(side),) * 2 == (side // 2,) * 2
    assert_array_equal(y, caffe_ceil_pool(x, 3, 2))  # negative values: a zero pad would show


def test_inception_pool_pads_with_minus_infinity():
    x = -np.ones((1, 4, 4, 1), np.float32)
    assert_array_equal(max_pool(x, POOL_IN_MODULE), x)


def test_auxiliary_pool_is_not_adaptive():
    """Windows 0-5, 3-8, 6-11, 9-14 of a 14x14 map, not torchvision's 0-4, 3-7, 7-11, 10-14."""
    ramp = np.arange(14.0, dtype=np.float32)
    x = jnp.asarray(ramp[:, None] + 100 * ramp)[None, :, :, None]
    starts = [0, 3, 6, 9]
    expected = [[r + 2 + 100 * (c + 2) for c in starts] for r in starts]
    y = jax.jit(ops.average_pool, static_argnums=1)(x, AUXILIARY_POOL)
    assert_allclose(np.asarray(y)[0, :, :, 0], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="padding"):
        ops.average_pool(x, Window(3, 1, 1, 1))


def test_googlenet_conv1_padding_is_not_same():
    """(3, 2), the effect of Caffe's pad of 3, where SAME would be (2, 3)."""
    caffe, same = Window(7, 2, 3, 3), Window(7, 2, 2, 3)  # Caffe's floor rule drops the last row
    assert {"caffe": CONV1, "same": same} == CONV1_PADDING

    @jax.jit
    def outputs(x, kernel):
        return [dispatch.convolve(x, kernel, window) for window in (CONV1, caffe, same)]

    ours, caffe, same = outputs(normal(1, 224, 224, 3), normal(7, 7, 3, 2, seed=1))
    assert ours.shape == caffe.shape == same.shape == (1, 112, 112, 2)
    assert_array_equal(ours, caffe)
    assert not np.allclose(ours, same, atol=1.0)


@pytest.mark.parametrize("window", [Window(11, 4, 0, 3), Window(3, 2), Window(3, 2, 0, 1)])
def test_window_sizes(window):
    """`out` for numbers and arrays agrees with what XLA gives; `min_input` is its inverse."""
    sides = np.arange(8, 60, dtype=np.int32)
    assert np.asarray(window.out(jnp.asarray(sides))).tolist() == [
        window.out(int(side)) for side in sides
    ]
    for side in (8, 9, 10, 11, 59):
        x = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
        y = jax.eval_shape(lambda x: dispatch.plain_max_pool(x, window), x)
        assert window.out(side) == y.shape[1]
    for out in range(1, 9):
        smallest = window.min_input(out)
        assert window.out(smallest) == out
        assert smallest == 1 or window.out(smallest - 1) == out - 1


def test_paper_dropout_is_inverted_dropout_with_the_next_weights_halved():
    x, weights, key = normal(4, 16), normal(16, 3, seed=1), jax.random.key(2)

    @jax.jit
    def results(x):
        mask = UNSHARDED.dropout_mask(key, 0.5, x, Layout.BATCH_SHARDED)
        return mask, [
            [ops.dropout(x, 0.5, convention, kept) for convention in ("paper", "inverted")]
            for kept in (mask, None)
        ]

    kept, pairs = results(x)
    for paper, inverted in pairs:
        assert_array_equal(paper @ weights, inverted @ (weights * 0.5))
    assert_array_equal(pairs[0][0], np.where(kept, x, 0))
    assert_array_equal(pairs[1][0], x * 0.5)


@pytest.mark.parametrize("rate", [0.4, 0.5, 0.7])
def test_dropout_keeps_its_fraction(rate):
    x, key = jnp.ones((400, 500)), jax.random.key(0)

    @jax.jit
    def dropped(x):
        mask = UNSHARDED.dropout_mask(key, rate, x, Layout.BATCH_SHARDED)
        return mask, ops.dropout(x, rate, "inverted", mask)

    kept, y = map(np.asarray, dropped(x))
    assert len({row.tobytes() for row in kept}) == 400  # each image has its own
    assert_allclose(np.mean(y != 0), 1 - rate, atol=5e-3)
    assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    assert_array_equal(ops.dropout(x, rate, "inverted", None), x)


def test_a_stack_of_3x3_sees_what_one_larger_kernel_sees():
    """Simonyan and Zisserman 2014, section 2.3: two see 5x5, three see 7x7."""
    point = jnp.zeros((1, 15, 15, 1)).at[0, 7, 7, 0].set(1.0)
    kernel = jnp.ones((3, 3, 1, 1))
    for count, side in ((2, 5), (3, 7)):
        seen = point
        for _ in range(count):
            seen = dispatch.convolve(seen, kernel, Window(3, 1, 1, 1))
        rows = np.flatnonzero(np.asarray(seen).sum(axis=(0, 2, 3)))
        assert (rows[0], rows[-1]) == (7 - side // 2, 7 + side // 2)
