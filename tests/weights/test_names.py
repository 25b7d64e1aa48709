"""The tables of names: each has every parameter of its net once, in layouts that fit."""

from functools import cache

import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.models import build
from jaxcnn.weights.assemble import assemble
from jaxcnn.weights.kernel_layout import fits, from_stored, to_stored
from jaxcnn.weights.match import match, tensor_names
from jaxcnn.weights.names import FORMS, slim
from jaxcnn.weights.net_weights import param_shapes
from tests.weights.made import numbered, stored, weights_file

SMALL = {
    "vgg": {"image_size": 64, "width": 1 / 16},
    "alexnet": {"image_size": 99, "width": 1 / 16},
    "googlenet": {"image_size": 64, "width": 1 / 16},
}


@cache
def shapes_of(fields):
    model = dict(fields)
    return param_shapes(build(**{**model, **SMALL[model["name"]]}), train=True)


def shapes(form):
    """Those of the small net of a form; auxiliary heads only if the form has them."""
    found = shapes_of(tuple(form.model.items()))
    auxiliary = any(place.leaf.startswith("aux_") for place in form.places)
    return {k: v for k, v in found.items() if auxiliary or not k.startswith("aux_")}


def name(form):
    return f"{form.program}-{'-'.join(map(str, form.model.values()))}"


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_every_parameter_has_one_place_and_comes_back_bit_for_bit(form):
    expected = shapes(form)
    leaves = [place.leaf for place in form.places]
    assert sorted(leaves) == sorted(expected)
    tensors = [place.tensor for place in form.places if place.tensor]
    norms = {place.norm for place in form.places if place.norm}
    tensors += [tensor for norm in norms for tensor in norm[:4] if tensor]
    assert sorted(tensors) == sorted(tensor_names(form.places))
    assert len(set(tensors)) == len(tensors)
    params = numbered(expected)
    for place in form.places:
        array = params[place.leaf]
        there = to_stored(array, place.layout)
        assert fits(place.layout, there.shape, array.shape), place
        np.testing.assert_array_equal(from_stored(there, place.layout, array.shape), array)


def test_names_of_slim():
    """As in its source: modules begin with b, and one convolution of 3x3 is called 0a."""
    names = {p.leaf: p.tensor for form in slim.forms() for p in form.places if p.tensor}
    scope = "InceptionV1/Mixed_{}/Branch_2/Conv2d_0{}_3x3/weights"
    assert names["inception_3a/conv5x5/kernel"] == scope.format("3b", "b")
    assert names["inception_4e/conv5x5/kernel"] == scope.format("4f", "b")
    assert names["inception_5a/conv5x5/kernel"] == scope.format("5b", "a")
    assert names["inception_5b/conv5x5/kernel"] == scope.format("5c", "b")
    assert names["conv5_4/kernel"] == "vgg_19/conv5/conv5_4/weights"
    assert names["fc8/bias"] == "vgg_19/fc8/biases"
    assert names["fc/bias"] == "InceptionV1/Logits/Conv2d_0c_1x1/biases"


@pytest.mark.parametrize(
    "form", [slim.forms()[0], pytest.param(slim.forms()[-1], marks=pytest.mark.slow)]
)
def test_slims_nets_are_found_and_folded(form):
    arrays, expected = stored(form, numbered(shapes(form)))
    first = next(iter(arrays))
    arrays["global_step"] = np.zeros((), np.int64)
    arrays[f"{first}/Momentum"] = arrays[first]
    file = weights_file(arrays)
    found = match(file, f"{form.model['name']} image_size=64")
    assert found.form.program == "slim"
    assert found.dropped.keys() == {"global_step", f"{first}/Momentum"}
    for path, leaf in assemble(file, found, None, drop_background=True).items():
        array = expected[path]
        array = array[..., 1:] if path.split("/")[0] in ("fc", "fc8") else array
        np.testing.assert_allclose(leaf.read(), array, rtol=1e-6, err_msg=path)
    del arrays[first]
    with pytest.raises(FileError, match=f"{first}: missing"):
        match(weights_file(arrays))
