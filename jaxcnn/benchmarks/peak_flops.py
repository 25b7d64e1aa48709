"""What this machine's cores can do, by a large matrix product."""

from __future__ import annotations

import functools
import time

import numpy as np

_SIDE = 2048


def matmul_flops() -> float:
    """Floating-point operations a second of a product of two float32[2048,2048], by XLA or by NumPy's
    BLAS, whichever is faster now."""
    return max(_rate(_with_xla()), _rate(_with_numpy))


def _rate(product) -> float:
    product()
    began = time.perf_counter()
    product()
    return 2.0 * _SIDE**3 / (time.perf_counter() - began)


@functools.cache
def _operand() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)


def _with_numpy() -> None:
    np.matmul(_operand(), _operand())


@functools.cache
def _with_xla():
    import jax

    x = jax.device_put(_operand(), jax.devices("cpu")[0])
    compiled = jax.jit(lambda x: x @ x).lower(x).compile()
    return lambda: compiled(x).block_until_ready()
