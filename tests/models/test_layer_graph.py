"""A net as a graph of its layers, read from a trace of the net itself."""

import jax.numpy as jnp
import pytest

from jaxcnn.models import AlexNet, build
from jaxcnn.models.layer_graph import Concatenation, Images, LayerNode, layer_graph
from tests.models.narrow import short_googlenet


def nodes_of(node, seen=None):
    """All nodes that a node needs, sources first."""
    seen = {} if seen is None else seen
    if id(node) not in seen:
        sources = (
            node.sources if isinstance(node, Concatenation) else [getattr(node, "source", None)]
        )
        for source in sources:
            if source is not None:
                nodes_of(source, seen)
        seen[id(node)] = node
    return list(seen.values())


def paths(node):
    return [n.path for n in nodes_of(node) if isinstance(n, LayerNode)]


def test_towers_are_one_node_of_two_groups_each():
    net = build("alexnet", width=0.1, image_size=72, num_classes=4)
    graph = layer_graph(net)
    nodes = nodes_of(graph.scores)
    assert not any(isinstance(node, Concatenation) for node in nodes)
    groups = {n.path: n.groups for n in nodes if isinstance(n, LayerNode)}
    # fmt: off
    assert list(groups) == [
        "conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5",
        "fc6", "drop6", "fc7", "drop7", "fc8",
    ]
    # fmt: on
    exchange = {"conv1", "conv3", "fc6", "drop6", "fc7", "drop7", "fc8"}
    assert {path for path, count in groups.items() if count == 1} == exchange
    assert graph.outputs["conv2"].shape == graph.outputs["norm2"].shape == (8, 8, 26)
    assert graph.outputs["conv2"].source is graph.outputs["pool1"]


def test_an_option_changes_the_graph():
    def changed(**fields):
        return layer_graph(build("alexnet", width=0.1, image_size=72, num_classes=4, **fields))

    assert changed(lrn="whole").outputs["norm1"].groups == 1
    assert changed(ungrouped=True).outputs["norm1"].groups == 2
    assert changed(ungrouped=True).outputs["conv2"].groups == 1
    assert "norm1" not in paths(changed(lrn="off").scores)
    assert "conv3" not in paths(changed(drop_layer="conv3").scores)
    assert changed(towers=1).outputs["conv1"].shape == (17, 17, 5)


def test_an_inception_module_is_a_concatenation_and_its_input_is_read_four_times():
    net = build("googlenet", width=0.1, image_size=64, num_classes=4, remat=True, dtype="bfloat16")
    with short_googlenet():
        graph = layer_graph(net)
    module = graph.outputs["inception_4a"]
    assert isinstance(module, Concatenation)
    branches = ("conv1x1", "conv3x3", "conv5x5", "pool_proj")
    assert [s.path for s in module.sources] == [f"inception_4a/{name}" for name in branches]
    pool = graph.outputs["pool3"]
    readers = [n.path for n in nodes_of(graph.scores) if getattr(n, "source", None) is pool]
    first = ("conv1x1", "conv3x3_reduce", "conv5x5_reduce", "pool")
    assert readers == [f"inception_4a/{name}" for name in first]
    # 3 + 3 * 6 convolutions, fc, 4 + 3 max-pools, average pool, two LRNs, dropout: each once
    assert len(paths(graph.scores)) == len(set(paths(graph.scores))) == 21 + 1 + 7 + 1 + 2 + 1
    assert not any(path.startswith("aux") for path in graph.outputs)


def test_a_score_map_slides_its_fully_connected_layers():
    net = build("vgg", column="A", width=0.1, image_size=32, num_classes=4)
    plain, dense = layer_graph(net), layer_graph(net, (64, 96))
    assert plain.scores.shape == (4,)
    assert not plain.outputs["fc6"].slides
    assert dense.scores.shape == (2, 3, 4)
    assert dense.outputs["fc6"].slides
    assert [n.shape for n in nodes_of(dense.scores) if isinstance(n, Images)] == [(64, 96, 3)]


@pytest.mark.parametrize(
    ("between", "named"),
    [
        (lambda x: x * 2.0, "mul before conv3"),
        (lambda x: jnp.concatenate([x[..., 1:], x[..., :1]], axis=-1), "a concatenation of parts"),
        (
            lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1),
            "concatenation of parts",
        ),
        (lambda x: jnp.split(x, 2, axis=-1)[0], "conv3 on a part"),
    ],
)
def test_a_computation_between_layers_is_an_error_and_never_left_out(monkeypatch, between, named):
    from jaxcnn.models import towers

    exchange = towers.Towers.exchange
    monkeypatch.setattr(towers.Towers, "exchange", lambda self, maps: between(exchange(self, maps)))
    net = AlexNet(width=0.1, image_size=72, num_classes=4, lrn="off")
    with pytest.raises(NotImplementedError, match=named):
        layer_graph(net)
