"""Layer lists have the papers' parameter counts, and PyTorch computes the same logits from them."""

import importlib.util

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcnn.benchmarks import torch_net
from jaxcnn.benchmarks.layer_list import layer_list
from jaxcnn.models import build
from tests.models.facts import FACTS
from tests.models.narrow import picture, quick_jit, random_variables

# Parameters with auxiliary heads: performance.md, A1.
WITH_HEADS = {"googlenet": 13_378_280}


def parameters(layers):
    count = 0
    for kind, *given in layers:
        if kind == "conv":
            _, ins, outs, side, *_, groups = given
            count += ins // groups * outs * side**2 + outs
        elif kind == "linear":
            count += given[1] * given[2] + given[2]
        elif kind == "concat":
            count += sum(parameters(branch) for branch in given)
        elif kind == "auxiliary":
            count += parameters(given[0])
    return count


@pytest.mark.parametrize("name", ["alexnet", "alexnet_one_gpu", "vgg_a_lrn", "googlenet"])
def test_parameter_counts(name):
    facts = FACTS[name]
    found = parameters(layer_list(build(facts.net, **facts.fields)))
    assert found == WITH_HEADS.get(name, facts.parameters)


@pytest.mark.parametrize(
    ("name", "variant"),
    [("cuda_convnet", {}), ("alexnet", {"activation": "tanh"}), ("googlenet", {"module": "naive"})],
)
def test_other_layers_and_activations_have_no_peer(name, variant):
    size = 24 if name == "cuda_convnet" else 67
    with pytest.raises(ValueError, match="no peer can be built of"):
        layer_list(build(name, image_size=size, **variant))


def test_a_missing_peer_is_an_error_with_the_install_command():
    with pytest.raises(ValueError, match=r"pip install -e '\.\[bench\]'"):
        torch_net.import_torch("a_missing_peer")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch, extra 'bench'")
@pytest.mark.parametrize("name", ["alexnet", "vgg_a_lrn", "vgg_d", "googlenet"])
def test_pytorch_gives_the_same_logits(name):
    facts = FACTS[name]
    net = build(facts.net, **(facts.fields | {"width": 0.125, "num_classes": 10}))
    variables = random_variables(net, train=True)
    images = picture(2, 224, 224)
    expected, _ = quick_jit(lambda v, x: net.apply(v, x))(variables, images)
    torch = torch_net.import_torch("torch")
    other = torch_net.build_torch(layer_list(net)).eval()
    torch_net.copy_params(other, variables["params"])
    with torch.no_grad():
        found, heads = other(torch.from_numpy(np.moveaxis(images, 3, 1).copy()))
    assert heads == []
    scale = float(jax.numpy.abs(expected).max())
    assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4 * scale)
