"""Cross-entropy and the weight of auxiliary heads, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.losses import Objective, cross_entropy


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    expected = [-np.log(0.2), -np.log(0.5)]
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1, 2])), expected, rtol=1e-6)


def test_uniform_logits_give_the_log_of_the_number_of_classes():
    np.testing.assert_allclose(
        cross_entropy(jnp.zeros((1, 1000)), jnp.array([3])), [6.907755], rtol=1e-6
    )


def test_total_is_main_plus_three_tenths_of_each_auxiliary_head():
    """Check A1: m + 0.3 (a1 + a2)."""
    labels = jnp.array([0, 1])
    main, first, second = (jnp.array([[v, 0.0], [0.0, -v]]) for v in (1.0, 2.0, 3.0))
    m, a1, a2 = (cross_entropy(x, labels) for x in (main, first, second))
    np.testing.assert_allclose(
        Objective()(main, (first, second), labels), m + 0.3 * (a1 + a2), rtol=1e-6
    )
    np.testing.assert_allclose(Objective()(main, (), labels), m, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"), [("auxiliary_weight", 1.5), ("auxiliary_weight", -0.1)]
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        Objective(**{field: value})
