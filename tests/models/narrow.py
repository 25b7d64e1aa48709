"""Parameters of a net for tests, drawn on the host: compiling JAX's draws takes longer."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(net, train=False, seed=0):
    """Kernels that keep the size of what passes, and biases that are not zero."""
    generator = np.random.default_rng(seed)
    images = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    key = jax.random.key(0)
    abstract = jax.eval_shape(
        lambda x: net.init({"params": key, "dropout": key}, x, train=train), images
    )

    def draw(leaf):
        std = 0.1 if len(leaf.shape) == 1 else math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return jnp.asarray(generator.normal(size=leaf.shape) * std, leaf.dtype)

    return jax.tree.map(draw, abstract)


def quick_jit(function):
    """jit that spends no time on optimising code that runs once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def picture(*shape, seed=0):
    """Normal pixels of deviation 50: what a centred photograph is like."""
    return 50 * np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)
