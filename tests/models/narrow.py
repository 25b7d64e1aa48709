"""Small nets and parameters for tests, drawn on the host: compiling JAX's draws takes longer."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import googlenet, summary


def cache_by_modules(function):
    """functools.cache, apart for GoogLeNet with other modules (`short_googlenet`), whose nets are equal."""
    cached = functools.cache(lambda _, *arguments, **named: function(*arguments, **named))

    @functools.wraps(function)
    def call(*arguments, **named):
        return cached(tuple(googlenet.INCEPTION), *arguments, **named)

    return call


@cache_by_modules
def abstract_variables(net, train=False):
    images = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    key = jax.random.key(0)
    return jax.eval_shape(
        lambda x: net.init({"params": key, "dropout": key}, x, train=train), images
    )


def random_variables(net, train=False, seed=0):
    """Kernels that keep the size of activations, and biases that are not zero."""
    generator = np.random.default_rng(seed)

    def draw(leaf):
        std = 0.1 if len(leaf.shape) == 1 else math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return jnp.asarray(generator.normal(size=leaf.shape) * std, leaf.dtype)

    return jax.tree.map(draw, abstract_variables(net, train))


def quick_jit(function):
    """jit that spends no time on optimising code that runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def picture(*shape, seed=0):
    """Normal pixels of standard deviation 50, like a photograph minus its mean."""
    return 50 * np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def features(net, variables, images, layers=None):
    """Outputs by layer, of all layers or of `layers`; the towers' outputs are joined."""
    captured = _features(net, layers)(variables, images)
    return {
        name: jnp.concatenate(calls["__call__"], axis=-1)
        for name, calls in captured.items()
        if name != "__call__"
    }


@cache_by_modules
def _features(net, layers):
    def capture(module, method):
        return method == "__call__" and (layers is None or module.name in layers)

    def apply(variables, images):
        return net.apply(variables, images, capture_intermediates=capture)[1]["intermediates"]

    return quick_jit(apply)


@contextlib.contextmanager
def short_googlenet():
    """Leaves GoogLeNet three of its nine modules, one at each size: the others have the same operations."""
    with pytest.MonkeyPatch.context() as patch:
        modules = {name: googlenet.INCEPTION[name] for name in ("3a", "4a", "5a")}
        patch.setattr(googlenet, "INCEPTION", modules)
        rows = functools.cache(summary._training_rows.__wrapped__)
        patch.setattr(summary, "_training_rows", rows)
        yield
