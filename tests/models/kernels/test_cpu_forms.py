"""The forms that CPUs compute convolutions and pools by, against the plain ones, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcnn.models import build
from jaxcnn.models.googlenet import POOL, POOL_IN_MODULE
from jaxcnn.models.kernels import dispatch, max_pool_slices, winograd
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


def shapes_of(name, monkeypatch):
    """What a net at its full width gives to `convolve` and `max_pool`, in training."""
    seen = {"convolve": set(), "max_pool": set()}
    for function, calls in seen.items():
        plain = getattr(dispatch, function)

        def spy(x, *rest, plain=plain, calls=calls):
            calls.add((x.shape[1:], *(getattr(r, "shape", r) for r in rest)))
            return plain(x, *rest)

        monkeypatch.setattr(dispatch, function, spy)
    net, fields = NETS[name]
    net = build(net, **fields)
    images = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    jax.eval_shape(lambda x: net.init(keys, x, train=True), images)
    return seen


def all_shapes(monkeypatch):
    seen = [shapes_of(name, monkeypatch) for name in NETS]
    return {kind: set().union(*(s[kind] for s in seen)) for kind in seen[0]}


def value_and_gradients(function, *arrays):
    y, pull = jax.vjp(function, *arrays)
    slope = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return (y, *pull(slope))


def check(ours, plain, arrays, tolerance):
    """Within `tolerance` of the largest value of each result."""
    found = quick_jit(lambda *a: value_and_gradients(ours, *a))(*arrays)
    expected = quick_jit(lambda *a: value_and_gradients(plain, *a))(*arrays)
    for one, other in zip(found, expected, strict=True):
        scale = float(jnp.abs(other).max())
        assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def drawn(dtype, *shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def test_the_nets_have_such_convolutions(monkeypatch):
    found = all_shapes(monkeypatch)["convolve"]
    taken = {s for s in found if s[2] == SAME and winograd.pays((1, *s[0]), s[1])}
    assert {(x[0], kernel[2], kernel[3]) for x, kernel, *_ in taken} == {
        *((56, 128, 256), (56, 256, 256), (28, 256, 512), (28, 512, 512), (14, 512, 512)),
        (13, 256, 384),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("side", "c", "k"),
    [
        (56, 128, 256),
        (56, 256, 256),
        (28, 256, 512),
        (28, 512, 512),
        (14, 512, 512),
        (13, 256, 384),
    ],
)
def test_winograd_equals_the_plain_convolution(side, c, k, dtype):
    """Every shape of the eight nets that takes this form."""
    with jax.enable_x64(dtype == "float64"):
        x, kernel = drawn(dtype, (1, side, side, c), (3, 3, c, k))
        assert winograd.pays(x.shape, kernel.shape)
        ours = lambda x, kernel: dispatch.convolve(x, kernel, SAME)  # noqa: E731
        text = str(jax.make_jaxpr(ours)(x, kernel))
        assert "platform_index" in text
        check(
            ours,
            lambda x, k: dispatch.plain_convolve(x, k, SAME),
            (x, kernel),
            1e-5 if dtype == "float32" else 1e-12,
        )


@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 5), (8, 8), (1, 2)])
@pytest.mark.parametrize("images", [1, 3])
def test_winograd_on_odd_maps_and_in_groups(height, width, images, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", 12)  # three groups of eight tiles and more, one of less
    x, kernel = drawn("float32", (images, height, width, 3), (3, 3, 3, 5))
    y = jax.jit(winograd.convolve_winograd)(x, kernel)
    assert_allclose(y, dispatch.plain_convolve(x, kernel, SAME), rtol=0, atol=1e-4)


def test_winograd_in_bfloat16_is_rounded_once():
    x, kernel = drawn("bfloat16", (1, 8, 8, 32), (3, 3, 32, 16))
    y = winograd.convolve_winograd(x, kernel)
    exact = dispatch.plain_convolve(x.astype(jnp.float32), kernel.astype(jnp.float32), SAME)
    assert y.dtype == jnp.bfloat16
    assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


def pools(monkeypatch):
    return {(x[0], window) for x, window in all_shapes(monkeypatch)["max_pool"]}


@pytest.mark.parametrize("room", [1, 5, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_pools_equal_reduce_window_in_value_and_gradient(dtype, room, monkeypatch):
    """Every pool of the eight nets, eight channels of it, and odd ones; with ties, as after a ReLU. Six
    images; the gradient of one, of three (as five are no divisor) and of all at once."""
    found = pools(monkeypatch)
    monkeypatch.undo()
    assert {(28, POOL_IN_MODULE), (112, POOL), (55, Window(3, 2)), (224, Window(2, 2))} <= found
    with jax.enable_x64(dtype == "float64"):
        for side, window in {(min(s, 9 + s % 2), w) for s, w in found} | {(9, Window(2, 2))}:
            whole = np.random.default_rng(side).integers(-3, 4, (6, side, side, 8))
            x = jnp.asarray(np.maximum(whole, 0), dtype)
            monkeypatch.setattr(max_pool_slices, "_GROUP_VALUES", room * x[0].size)
            ours, plain = (
                quick_jit(lambda x, f=f, w=window: value_and_gradients(lambda x: f(x, w), x))(x)
                for f in (dispatch.max_pool, dispatch.plain_max_pool)
            )
            assert_array_equal(ours[0], plain[0])
            # sums of up to nine slopes, in another order
            exact = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 0.1}[dtype]
            gradients = [np.asarray(g[1], np.float64) for g in (ours, plain)]
            assert_allclose(*gradients, rtol=0, atol=exact)


def test_other_platforms_compute_the_plain_forms():
    x, kernel = drawn("float32", (1, 28, 28, 256), (3, 3, 256, 512))

    def net(x, kernel):
        return dispatch.max_pool(dispatch.convolve(x, kernel, SAME), Window(2, 2)).sum()

    gradient = jax.jit(jax.grad(net, argnums=(0, 1)))
    for platform, plain in (("tpu", True), ("cuda", True), ("cpu", False)):
        text = gradient.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.reduce_window" in text) == plain
        assert ("stablehlo.select_and_scatter" in text) == plain
        assert text.count("stablehlo.convolution") == (3 if plain else 1)
        assert ("stablehlo.dot_general" in text) == (not plain)
