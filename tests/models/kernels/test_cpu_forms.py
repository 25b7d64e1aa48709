"""Forms of convolutions and pools for CPUs against the plain ones: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import build
from jaxcnn.models.googlenet import POOL, POOL_IN_MODULE
from jaxcnn.models.kernels import dispatch, matmul, max_pool_slices, winograd
from jaxcnn.models.window import Window
from tests.models.narrow import quick_jit

NETS = {
    "alexnet": ("alexnet", {}),
    "alexnet_one_gpu": ("alexnet", {"towers": 1}),
    **{
        f"vgg_{column.lower()}": ("vgg", {"column": column})
        for column in ("A", "A-LRN", "B", "C", "D", "E")
    },
    "googlenet": ("googlenet", {}),
}
SAME = Window(3, 1, 1, 1)
# (side, input channels, output channels)
LARGE_CONVOLUTIONS = [
    *((56, 128, 256), (56, 256, 256), (28, 256, 512), (28, 512, 512), (14, 512, 512)),
]


@functools.cache
def operand_shapes():
    """What the nets at full width pass to each operation of dispatch.py in training: (x without the batch,
    other operands' shapes or values) by operation. Traced once; callers share it."""
    seen = {"convolve": set(), "max_pool": set(), "multiply": set()}
    with pytest.MonkeyPatch.context() as patch:
        for function, calls in seen.items():
            plain = getattr(dispatch, function)

            def spy(x, *rest, plain=plain, calls=calls):
                calls.add((x.shape[1:], *(getattr(r, "shape", r) for r in rest)))
                return plain(x, *rest)

            patch.setattr(dispatch, function, spy)
        for net, fields in NETS.values():
            net = build(net, **fields)
            images = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
            keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
            jax.eval_shape(lambda x, net=net, keys=keys: net.init(keys, x, train=True), images)
    return seen


def value_and_gradients(function, *arrays):
    y, pull = jax.vjp(function, *arrays)
    slope = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return (y, *pull(slope))


def check(ours, plain, arrays, tolerance):
    """Within `tolerance` of the largest value of each result."""
    both = quick_jit(lambda *a: [value_and_gradients(function, *a) for function in (ours, plain)])
    found, expected = both(*arrays)
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(np.asarray(other)).max()
        assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def drawn(dtype, *shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def test_convolutions_of_the_nets_that_take_winograd():
    found = operand_shapes()["convolve"]
    taken = {s for s in found if s[2] == SAME and winograd.pays((1, *s[0]), s[1])}
    assert {(x[0], kernel[2], kernel[3]) for x, kernel, *_ in taken} == {
        *LARGE_CONVOLUTIONS,
        (13, 256, 384),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("side", "c", "k"),
    [
        *(pytest.param(*shape, marks=pytest.mark.slow) for shape in LARGE_CONVOLUTIONS),
        (13, 256, 384),
    ],
)
def test_winograd_equals_the_plain_convolution(side, c, k, dtype):
    """An odd side of AlexNet; the other shapes of the nets that take this form are slow tests."""
    with jax.enable_x64(dtype == "float64"):
        x, kernel = drawn(dtype, (1, side, side, c), (3, 3, c, k))
        assert winograd.pays(x.shape, kernel.shape)
        ours = lambda x, kernel: dispatch.convolve(x, kernel, SAME)  # noqa: E731
        assert "multilinear[" in str(jax.make_jaxpr(ours)(x, kernel))
        check(
            ours,
            lambda x, k: dispatch.plain_convolve(x, k, SAME),
            (x, kernel),
            1e-5 if dtype == "float32" else 1e-12,
        )


@pytest.mark.parametrize(
    ("images", "height", "width"), [(1, 3, 4), (3, 4, 5), (3, 8, 8), (1, 1, 2), (3, 3, 4)]
)
def test_winograd_on_odd_maps_and_in_groups(height, width, images, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 12)  # three groups of eight tiles and more, one of less
    x, kernel = drawn("float32", (images, height, width, 3), (3, 3, 3, 5))
    y = quick_jit(winograd.convolve_winograd)(x, kernel)
    assert_allclose(y, dispatch.plain_convolve(x, kernel, SAME), rtol=0, atol=1e-4)


def test_winograd_in_bfloat16_is_rounded_once():
    x, kernel = drawn("bfloat16", (1, 8, 8, 32), (3, 3, 32, 16))
    y = quick_jit(winograd.convolve_winograd)(x, kernel)
    exact = dispatch.plain_convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), SAME)
    assert y.dtype == jnp.bfloat16
    assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "room"),
    [("float32", 1), ("float32", 5), ("float32", 6), ("float64", 5), ("bfloat16", 5)],
)
def test_pools_equal_reduce_window_in_value_and_gradient(dtype, room, monkeypatch):
    """Every window of the nets on smaller sides, with ties as after a ReLU. Six images; `room` images fit a
    group, so the gradient takes one, three (five is no divisor) or all at once."""
    found = {(x[0], window) for x, window in operand_shapes()["max_pool"]}
    assert {(28, POOL_IN_MODULE), (112, POOL), (55, Window(3, 2)), (224, Window(2, 2))} <= found
    with jax.enable_x64(dtype == "float64"):
        for side, window in {(min(s, 9 + s % 2), w) for s, w in found} | {(9, Window(2, 2))}:
            whole = np.random.default_rng(side).integers(-3, 4, (6, side, side, 8))
            x = jnp.asarray(np.maximum(whole, 0), dtype)
            monkeypatch.setattr(max_pool_slices, "_GROUP_VALUES", room * x[0].size)

            @quick_jit
            def results(x, window=window):
                pools = (dispatch.max_pool, dispatch.plain_max_pool)
                return [value_and_gradients(lambda x: f(x, window), x) for f in pools]  # noqa: B023

            ours, plain = results(x)
            assert_array_equal(ours[0], plain[0])
            # sums of up to nine slopes, in another order
            exact = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 0.1}[dtype]
            gradients = [np.asarray(g[1], np.float64) for g in (ours, plain)]
            assert_allclose(*gradients, rtol=0, atol=exact)


def test_other_platforms_compute_the_plain_forms():
    shapes = ((1, 28, 28, 256), (3, 3, 256, 512))
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    def net(x, kernel):
        return dispatch.max_pool(dispatch.convolve(x, kernel, SAME), Window(2, 2)).sum()

    gradient = jax.jit(jax.grad(net, argnums=(0, 1)))
    for platform, plain in (("tpu", True), ("cuda", True), ("cpu", False)):
        text = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.reduce_window" in text) == plain
        assert ("stablehlo.select_and_scatter" in text) == plain
        assert text.count("stablehlo.convolution") == (3 if plain else 1)
        assert ("stablehlo.dot_general" in text) == (not plain)


def test_one_switch_leaves_the_plain_forms(monkeypatch):
    arrays = drawn("float32", (1, 13, 13, 256), (3, 3, 256, 384), (1, 35, 35, 3), (11, 11, 3, 8))
    arrays += drawn("float32", (130, 1024), (1024, 2304))

    def results(setting):
        monkeypatch.setenv(dispatch.SWITCH, setting)

        # A new function each time: JAX keeps the program of one that it has traced.
        def compute(x, kernel, image, first, rows, weights):
            pooled = dispatch.max_pool(dispatch.convolve(x, kernel, SAME), Window(3, 2))
            first = dispatch.convolve(image, first, Window(11, 4, 0, 3))
            product = dispatch.multiply(rows, weights, "float32")
            return pooled, first, product, dispatch.slide(x, kernel, "float32")

        return str(jax.make_jaxpr(compute)(*arrays)), quick_jit(compute)(*arrays)

    (text_on, on), (text_off, off) = results("on"), results("off")
    assert text_on.count("multilinear[") >= 3  # two convolutions and a product
    assert text_on.count("platform_index[") >= 2  # a pool and a layer that slides
    assert "multilinear" not in text_off
    assert "platform_index" not in text_off
    for one, other in zip(on, off, strict=True):
        assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(np.asarray(other)).max())
    with pytest.raises(ValueError, match=r"JAXCNN_KERNELS='no'.*'on'.*'off'"):
        results("no")


def test_gradients_do_not_need_jit():
    (x,) = drawn("float32", (1, 4, 4, 2))
    gradient = jax.grad(lambda x: (dispatch.max_pool(x, Window(2, 2)) ** 2).sum())
    with jax.disable_jit():
        found = gradient(x)
    assert_allclose(found, quick_jit(gradient)(x), rtol=1e-6)


OPERATIONS = {
    "winograd": (lambda x, k: dispatch.convolve(x, k, SAME), [(2, 4, 4, 3), (3, 3, 3, 2)]),
    "max_pool": (lambda x: dispatch.max_pool(x, POOL_IN_MODULE), [(2, 4, 4, 2)]),
    "tiles": (lambda x: dispatch.max_pool(x, Window(2, 2)), [(2, 4, 5, 2)]),
    "multiply": (lambda x, k: dispatch.multiply(x, k, "float64"), [(3, 6), (6, 4)]),
    "slide": (lambda x, k: dispatch.slide(x, k, "float64"), [(2, 3, 3, 2), (2, 2, 2, 3)]),
}


@pytest.mark.parametrize(
    "name",
    [
        "max_pool",
        "multiply",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("winograd", "tiles", "slide")),
    ],
)
def test_derivatives_of_both_modes_and_orders(name, monkeypatch):
    """Against finite differences in float64; and mapped over every operand, against the plain form."""
    for constant, value in {"LARGE": 0, "_ROWS": 2, "_WIDE": 0, "_BLOCK": 2}.items():
        monkeypatch.setattr(matmul, constant, value)
    monkeypatch.setattr(winograd, "pays", lambda *_: True)
    function, shapes = OPERATIONS[name]
    with jax.enable_x64(True):
        arrays = drawn("float64", *shapes)
        check_grads(jax.jit(function), arrays, order=2, modes=("fwd", "rev"))
        several = drawn("float64", *((2, *shape) for shape in shapes))
        alone = [jax.jit(function)(*(array[i] for array in several)) for i in range(2)]
        mapped = jax.jit(jax.vmap(function))(*several)
        assert_allclose(mapped, jnp.stack(alone), rtol=1e-9, atol=1e-9)
