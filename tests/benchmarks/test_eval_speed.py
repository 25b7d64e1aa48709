"""Multiply-adds of score maps, and a row of `jaxcnn bench eval`."""

import itertools
import json

import pytest

from jaxcnn import models
from jaxcnn.benchmarks import eval_speed
from jaxcnn.cli.main import main
from jaxcnn.models.summary import score_map_macs, summarise

SMALL = {"num_classes": 4, "width": 0.125}


@pytest.mark.parametrize(
    ("net", "size"), [("alexnet", 67), ("googlenet", 32), ("cuda_convnet", 24)]
)
def test_a_score_map_of_one_position_costs_a_forward_pass(net, size):
    net = models.build(name=net, image_size=size, **SMALL)
    assert score_map_macs(net, net.image_size, net.image_size) == summarise(net).macs


def test_a_score_map_costs_the_products_of_its_positions():
    """VGG A's first layer at 64 x 96 pixels: 64 * 96 positions, 27 weights per output channel; and so on."""
    net = models.build(name="vgg", column="A", image_size=32, **SMALL)
    channels, total, side = (3, 8, 16, 32, 32, 64, 64, 64, 64), 0, 64 * 96
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        total += side * 9 * inputs * outputs
        side //= 4 if layer in (0, 1, 3, 5, 7) else 1
    cells = 2 * 3
    total += cells * (64 * 512 + 512 * 512 + 512 * 4)
    assert score_map_macs(net, 64, 96) == total


def test_an_evaluation_of_synthetic_images_is_measured(capsys, monkeypatch):
    monkeypatch.setattr(eval_speed, "FORWARD_SECONDS", 0.01)
    net = ["--net=cifar10_cuda_convnet", "--image_size=24"]
    asked = ["--source=synthetic:4", "--protocol=ten_crops", "--images=3", "--batch=8"]
    assert main(["bench", "eval", *net, *asked, "--repeats=1", "--json"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    what = "evaluation cifar10_cuda_convnet, ten_crops(27->24), float32, batch 8"
    assert row["what"] == what
    assert row["images"] == 3
    assert row["views_an_image"] == 10
    assert row["ratio"] == pytest.approx(row["gflops"] / row["forward_gflops"], rel=2e-3)


def test_no_images_is_an_error(capsys):
    assert main(["bench", "eval", "--source=synthetic:4", "--images=0"]) == 1
    assert "--images=0: expected 1 or more" in capsys.readouterr().err
