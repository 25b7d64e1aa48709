"""Layouts of stored kernels, on arrays whose values are their own index."""

import numpy as np
import pytest

from jaxcnn.weights.kernel_layout import fits, from_stored, stored_shape, to_stored

SHAPES = {
    "OIHW": (3, 2, 4, 5),
    "HWIO": (3, 2, 4, 5),
    "O(IHW)": (3, 2, 4, 5),
    "(HWI)O": (3, 2, 4, 5),
    "(IHW)O": (3, 2, 4, 5),
    "OI": (1, 1, 4, 5),
    "IO": (1, 1, 4, 5),
    "O": (5,),
}


@pytest.mark.parametrize("layout", SHAPES)
def test_a_layout_out_and_in_again_is_the_identity(layout):
    ours = np.arange(np.prod(SHAPES[layout])).reshape(SHAPES[layout])
    stored = to_stored(ours, layout)
    assert stored.flags.c_contiguous
    assert stored.shape == stored_shape(layout, ours.shape)
    assert fits(layout, stored.shape, ours.shape)
    assert np.array_equal(from_stored(stored, layout, ours.shape), ours)


def test_each_axis_is_where_the_layout_says():
    ours = np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5)
    h, w, i, o = 2, 1, 3, 4
    assert to_stored(ours, "OIHW")[o, i, h, w] == ours[h, w, i, o]
    assert to_stored(ours, "O(IHW)")[o, i * 6 + h * 2 + w] == ours[h, w, i, o]
    assert to_stored(ours, "(HWI)O")[h * 8 + w * 4 + i, o] == ours[h, w, i, o]


def test_axes_of_length_one_around_a_bias_do_not_count():
    assert fits("O", (1, 5), (5,))
    assert fits("O", (5, 1), (5,))
    assert not fits("O", (5, 5), (5,))
    assert not fits("OIHW", (4, 5, 3, 3), (3, 3, 4, 5))
