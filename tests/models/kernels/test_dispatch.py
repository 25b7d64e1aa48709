"""The one switch that leaves every operation in XLA's own form."""

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.models.kernels import dispatch
from jaxcnn.models.kernels.dispatch import SAME_3X3, SWITCH
from jaxcnn.models.window import Window


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


OPERATIONS = {
    "winograd": (
        lambda x, k: dispatch.convolve(x, k, SAME_3X3),
        (1, 28, 28, 256),
        (3, 3, 256, 512),
    ),
    "space to depth": (
        lambda x, k: dispatch.convolve(x, k, Window(7, 2, 3, 2)),
        (1, 32, 32, 3),
        (7, 7, 3, 64),
    ),
    "max-pool": (lambda x: dispatch.max_pool(x, Window(3, 2)), (1, 9, 9, 4)),
    "product": (lambda x, k: dispatch.multiply(x, k, "float32"), (130, 1024), (1024, 4096)),
    "slide": (dispatch.slide, (1, 3, 3, 8), (2, 2, 8, 4)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_off_takes_no_form_of_a_platform(name, monkeypatch):
    function, *shapes = OPERATIONS[name]

    def program():
        # A new function each time: JAX keeps the program of one that it has traced.
        return str(
            jax.make_jaxpr(lambda *arrays: function(*arrays))(*(array(*shape) for shape in shapes))
        )

    assert "platform_index" in program()
    monkeypatch.setenv(SWITCH, "off")
    assert "platform_index" not in program()


def test_another_value_of_the_switch_is_an_error(monkeypatch):
    monkeypatch.setenv(SWITCH, "none")
    with pytest.raises(ValueError, match="JAXCNN_KERNELS='none': set it to 'on'"):
        dispatch.enabled()
