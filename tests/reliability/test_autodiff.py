"""Nets as pure functions: every mode of differentiation and `vmap` over parameters, against the plain forms.

The plain forms (JAXCNN_KERNELS=off) are XLA's own operations with JAX's own derivatives.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcnn.models import build
from jaxcnn.models.kernels import dispatch, matmul, winograd
from tests.models.narrow import picture, random_variables, short_googlenet

pytestmark = pytest.mark.slow

NETS = {
    "alexnet": ("alexnet", {"image_size": 64, "width": 0.1}),
    "vgg": ("vgg", {"image_size": 32, "width": 0.1, "column": "A-LRN"}),
    "googlenet": ("googlenet", {"image_size": 32, "width": 0.1}),
    "cuda_convnet": ("cuda_convnet", {"width": 0.2, "local": "shared"}),
}
CALLS = ("plain", "train", "score_map")
cases = pytest.mark.parametrize(("name", "call"), [(n, c) for n in NETS for c in CALLS])


@pytest.fixture(autouse=True)
def small_layers_take_the_forms_of_large_ones(monkeypatch):
    monkeypatch.setattr(matmul, "LARGE", 0)
    monkeypatch.setattr(matmul, "_ROWS", 2)
    monkeypatch.setattr(matmul, "_WIDE", 0)
    monkeypatch.setattr(matmul, "_BLOCK", 1)
    monkeypatch.setattr(
        winograd, "pays", lambda image, kernel: min(image[1:3]) > 1 and kernel[0] == 3
    )
    with short_googlenet():
        yield


@functools.cache
def made(name):
    kind, fields = NETS[name]
    net = build(kind, num_classes=3, **fields)
    return (
        net,
        random_variables(net, train=True),
        jnp.asarray(picture(3, net.image_size, net.image_size)),
    )


def scores_of(name, call):
    """(function of (variables, images) to scores [b, k], variables, images)."""
    net, variables, images = made(name)

    def scores(variables, images):
        if call == "train":
            rngs = {"dropout": jax.random.key(1)}
            logits, aux = net.apply(variables, images, train=True, rngs=rngs)
            return logits + sum(aux, jnp.zeros(()))
        if call == "plain":
            return net.apply(variables, images)[0]
        padded = jnp.pad(images, ((0, 0), (0, 8), (0, 40), (0, 0)))
        sizes = jnp.array([images.shape[1:3]] * len(images), jnp.int32) + jnp.array(
            [[0, 33]], jnp.int32
        )
        return net.apply(variables, padded, sizes, method="score_map")[0].sum((1, 2))

    return scores, variables, images


def like(tree, seed):
    """A direction in the space of a tree, as long as its leaves."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype) * jnp.sqrt(jnp.mean(x**2)),
        tree,
    )


def both_forms(monkeypatch, function, *arguments):
    """Results in the forms of this platform and in the plain ones."""
    results = []
    for setting in ("on", "off"):
        monkeypatch.setenv(dispatch.SWITCH, setting)
        # A new function each time: JAX keeps the program of one that it has traced.
        results.append(jax.jit(lambda *a: function(*a))(*arguments))
    return results


def assert_close(found, expected, tolerance=1e-3):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert np.all(np.isfinite(one))
        scale = np.abs(np.asarray(other)).max()
        assert_allclose(one, other, rtol=0, atol=tolerance * scale + 1e-6)


@cases
def test_forward_mode_equals_reverse_mode_and_the_plain_forms(name, call, monkeypatch):
    """jvp and linearize along a direction; and its product with a cotangent is that of vjp."""
    scores, variables, images = scores_of(name, call)
    directions = like(variables, 1), like(images, 2)
    cotangent = jnp.linspace(1, 2, 9).reshape(3, 3)

    def modes(variables, images):
        y, tangent = jax.jvp(scores, (variables, images), directions)
        _, linear = jax.linearize(scores, variables, images)
        _, pull = jax.vjp(scores, variables, images)
        return y, tangent, linear(*directions), pull(cotangent)

    ours, plain = both_forms(monkeypatch, modes, variables, images)
    assert_close(ours, plain)
    _, tangent, linear, gradients = ours
    assert_close(linear, tangent, 1e-5)
    terms = [
        np.vdot(np.asarray(g, np.float64), np.asarray(d, np.float64))
        for g, d in zip(*map(jax.tree.leaves, (gradients, directions)), strict=True)
    ]
    product = np.vdot(cotangent, np.asarray(tangent, np.float64))
    assert_allclose(sum(terms), product, rtol=0, atol=1e-4 * np.abs(terms).max())


@cases
def test_second_derivatives(name, call, monkeypatch):
    """Forward over reverse, reverse over forward, forward over forward and reverse over reverse agree with
    each other and with the plain forms."""
    scores, variables, images = scores_of(name, call)
    direction = like(variables, 1)

    def loss(variables):
        return jnp.sum(jax.nn.log_softmax(1e-2 * scores(variables, images))[:, 0] ** 2)

    def products(variables):
        along = lambda v: jax.jvp(loss, (v,), (direction,))[1]  # noqa: E731
        inner = lambda v: sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(loss)(v), direction)))  # noqa: E731
        forward_over_reverse = jax.jvp(jax.grad(loss), (variables,), (direction,))[1]
        return (
            forward_over_reverse,
            jax.grad(along)(variables),
            jax.grad(inner)(variables),
            jax.jvp(along, (variables,), (direction,))[1],
        )

    ours, plain = both_forms(monkeypatch, products, variables)
    assert_close(ours, plain, 5e-3)
    assert_close(ours[1], ours[0], 5e-3)
    assert_close(ours[2], ours[0], 5e-3)
    curvature = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, ours[0], direction)))
    assert_allclose(ours[3], curvature, rtol=1e-2)


@pytest.mark.parametrize("name", NETS)
def test_a_hessian(name, monkeypatch):
    """`jax.hessian` of a loss in the last layer's and the first layer's biases."""
    scores, variables, images = scores_of(name, "plain")
    params = variables["params"]
    first = "conv1" if "conv1" in params else "conv1_1"
    last = "fc8" if "fc8" in params else "fc"

    def loss(biases):
        changed = dict(params)
        for layer in biases:
            changed[layer] = {**params[layer], "bias": biases[layer]}
        return jnp.sum(jax.nn.log_softmax(1e-2 * scores({"params": changed}, images))[:, 0] ** 2)

    biases = {layer: params[layer]["bias"] for layer in {first, last}}
    ours, plain = both_forms(monkeypatch, jax.hessian(loss), biases)
    assert_close(ours, plain, 5e-3)
    assert_allclose(ours[first][last], np.swapaxes(ours[last][first], 0, 1), rtol=5e-2, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("call", ["plain", "score_map"])  # dropout depends on the place in a batch
def test_per_example_gradients_and_several_parameters(name, call, monkeypatch):
    scores, variables, images = scores_of(name, call)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), variables, like(variables, 3))

    def one(variables, image):
        return scores(variables, image[None])[0, 1]

    def mapped(variables, stacked, images):
        by_example = jax.vmap(jax.grad(one), (None, 0))(variables, images)
        by_net = jax.vmap(scores, (0, None))(stacked, images)
        gradients = jax.vmap(jax.grad(lambda v, x: scores(v, x)[:, 1].sum()), (0, None))(
            stacked, images
        )
        return by_example, by_net, gradients

    ours, plain = both_forms(monkeypatch, mapped, variables, stacked, images)
    assert_close(ours, plain)
    by_example, by_net, _ = ours
    whole = jax.jit(jax.grad(lambda v: scores(v, images)[:, 1].sum()))(variables)
    assert_close(jax.tree.map(lambda g: g.sum(0), by_example), whole)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        assert_close(by_net[i], jax.jit(scores)(own, images))


@cases
def test_tangents_against_finite_differences(name, call):
    """Central differences along a direction of the last layers' parameters, in which scores are smooth."""
    scores, variables, images = scores_of(name, call)
    last = [layer for layer in variables["params"] if layer in ("fc8", "fc", "conv1", "conv1_1")]
    direction = jax.tree.map(jnp.zeros_like, variables)
    for layer in last:
        direction["params"][layer] = like(variables["params"][layer], 5)
    tangent = jax.jit(lambda v: jax.jvp(lambda v: scores(v, images), (v,), (direction,))[1])(
        variables
    )
    step = 1e-4

    @jax.jit
    def moved(sign):
        return scores(jax.tree.map(lambda v, d: v + sign * step * d, variables, direction), images)

    difference = (np.asarray(moved(1.0), np.float64) - np.asarray(moved(-1.0), np.float64)) / (
        2 * step
    )
    assert_allclose(tangent, difference, rtol=0, atol=3e-2 * np.abs(difference).max())
