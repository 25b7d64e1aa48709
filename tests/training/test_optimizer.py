"""The papers' update rule against hand arithmetic (papers.md section 6, O1 to O4)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcnn.training.optimizer import decayed, momentum


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def walk(tx, gradients, rates, start=1.0):
    """Weights after each update of one scalar kernel, and the updates themselves."""
    params = {"fc": {"kernel": jnp.asarray(start, jnp.float64)}}
    state = tx.init(params)
    weights, velocities = [], []
    for gradient, rate in zip(gradients, rates, strict=True):
        grads = {"fc": {"kernel": jnp.asarray(gradient, jnp.float64)}}
        updates, state = tx.update(
            grads, state, params, learning_rate=jnp.asarray(rate, jnp.float64)
        )
        params = optax.apply_updates(params, updates)
        weights.append(float(params["fc"]["kernel"]))
        velocities.append(float(updates["fc"]["kernel"]))
    return weights, velocities


def test_o1_weight_decay_without_gradient():
    weights, _ = walk(momentum(), [0.0] * 3, [0.01] * 3)
    np.testing.assert_allclose(
        weights, [0.999995, 0.999985500025, 0.9999719501199998], rtol=0, atol=1e-12
    )


def test_o2_constant_gradient_has_the_closed_form():
    weights, velocities = walk(momentum(weight_decay=0.0), [1.0] * 5, [0.01] * 5, start=0.0)
    t = np.arange(1, 6)
    np.testing.assert_allclose(velocities, -0.01 * (1 - 0.9**t) / 0.1, atol=1e-14)
    np.testing.assert_allclose(weights, -0.1 * (t - 0.9 * (1 - 0.9**t) / 0.1), atol=1e-14)
    assert velocities[4] == pytest.approx(-0.040951, abs=1e-12)
    assert weights[4] == pytest.approx(-0.131441, abs=1e-12)


def test_o3_gradient_and_decay():
    weights, _ = walk(momentum(), [2.0] * 3, [0.01] * 3)
    np.testing.assert_allclose(
        weights, [0.979995, 0.941985600025, 0.8877724301195], rtol=0, atol=1e-12
    )


def test_o4_the_learning_rate_is_inside_the_momentum_buffer():
    rates = [0.01, 0.01, 0.001, 0.001, 0.001]
    weights, velocities = walk(momentum(weight_decay=0.0), [1.0] * 5, rates, start=0.0)
    assert velocities[2] == pytest.approx(-0.0181, abs=1e-12)
    assert weights[4] == pytest.approx(-0.08095100, abs=1e-12)


def test_o4_optax_sgd_gives_other_values():
    """The buffer-first rule of optax.sgd and PyTorch, whose figures must differ from ours."""
    params, weight = jnp.zeros((), jnp.float64), []
    state = optax.trace(0.9).init(params)
    for rate in [0.01, 0.01, 0.001, 0.001, 0.001]:
        buffer, state = optax.trace(0.9).update(jnp.ones((), jnp.float64), state)
        params = params - rate * buffer
        weight.append(float(params))
    assert weight[2] - weight[1] == pytest.approx(-0.00271, abs=1e-12)
    assert weight[4] == pytest.approx(-0.0392441, abs=1e-12)


def test_biases_decay_only_with_decay_biases():
    params = {"conv1": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert decayed(params) == {"conv1": {"kernel": True, "bias": False}}
    for decay_biases in (False, True):
        tx = momentum(decay_biases=decay_biases)
        updates, _ = tx.update(zeros, tx.init(params), params, learning_rate=0.01)
        assert float(updates["conv1"]["kernel"][0]) == pytest.approx(-5e-6)
        assert (float(updates["conv1"]["bias"][0]) != 0) == decay_biases


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"weight_decay": -1.0}])
def test_errors_name_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        momentum(**wrong)
