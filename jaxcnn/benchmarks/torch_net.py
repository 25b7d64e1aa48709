"""Builds a net in PyTorch from a `layer_list`, channels last. Does not import JAX."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

INSTALL = "pip install -e '.[bench]'"


def import_torch(name: str) -> Any:
    """Imports a module of a peer.

    Raises:
        ValueError: it cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"cannot import the peer {name.partition('.')[0]} ({error}); install it: {INSTALL}"
        ) from error


def build_torch(layers: list[list[Any]]) -> Any:
    """A torch.nn.Module: images float[B,3,H,W] -> (logits, auxiliary logits, which are [] in eval mode).

    Its `named_layers` are the modules with parameters, by their names in the layer list.
    """
    torch = import_torch("torch")
    nn = torch.nn
    named: dict[str, Any] = {}
    heads: list[Any] = []

    class Towers(nn.Module):
        """A layer of each tower."""

        def __init__(self, layer: Any, count: int) -> None:
            super().__init__()
            self.layer, self.count = layer, count

        def forward(self, x: Any) -> Any:
            return torch.cat([self.layer(tower) for tower in x.chunk(self.count, 1)], 1)

    class Concat(nn.ModuleList):
        def forward(self, x: Any) -> Any:
            return torch.cat([branch(x) for branch in self], 1)

    class Auxiliary(nn.Sequential):
        """Returns its input; in training, also computes the logits of an auxiliary head."""

        def forward(self, x: Any) -> Any:
            if self.training:
                heads.append(super().forward(x))
            return x

    class Net(nn.Sequential):
        named_layers = named

        def forward(self, x: Any) -> tuple[Any, list[Any]]:
            heads.clear()
            return super().forward(x), list(heads)

    def conv(
        name: str, ins: int, outs: int, side: int, stride: int, before: int, after: int, groups: int
    ) -> Any:
        same = before if before == after else 0
        named[name] = layer = nn.Conv2d(ins, outs, side, stride, same, groups=groups)
        pad = nn.ZeroPad2d((before, after, before, after))
        return layer if before == after else nn.Sequential(pad, layer)

    def linear(name: str, ins: int, outs: int) -> Any:
        named[name] = nn.Linear(ins, outs)
        return nn.Sequential(nn.Flatten(), named[name])

    def max_pool(side: int, stride: int, before: int, after: int) -> Any:
        """The papers' pools pad both sides equally or follow Caffe's ceil rule."""
        return nn.MaxPool2d(side, stride, before, ceil_mode=after > before)

    def lrn(n: int, alpha: float, beta: float, k: float, towers: int) -> Any:
        layer = nn.LocalResponseNorm(n, alpha * n, beta, k)
        return layer if towers == 1 else Towers(layer, towers)

    kinds = {
        "conv": conv,
        "linear": linear,
        "relu": lambda: nn.ReLU(inplace=True),
        "max_pool": max_pool,
        "average_pool": nn.AvgPool2d,
        "lrn": lrn,
        "dropout": nn.Dropout,
        "concat": lambda *branches: Concat([nn.Sequential(*built(branch)) for branch in branches]),
        "auxiliary": lambda layers: Auxiliary(*built(layers)),
    }

    def built(layers: list[list[Any]]) -> list[Any]:
        return [kinds[kind](*arguments) for kind, *arguments in layers]

    return Net(*built(layers)).to(memory_format=torch.channels_last)


def copy_params(net: Any, params: Mapping[str, Any]) -> None:
    """Copies the JAX net's parameters, {layer: {kernel, bias}}, nested for inception modules, into `net`."""
    torch = import_torch("torch")
    for name, module in net.named_layers.items():
        leaves: Any = params
        for part in name.split("/"):
            leaves = leaves[part]
        kernel = np.moveaxis(np.asarray(leaves["kernel"]), (3, 2), (0, 1))  # to (k, c, h, w)
        weight = torch.from_numpy(np.ascontiguousarray(kernel.reshape(module.weight.shape)))
        with torch.no_grad():
            module.weight.copy_(weight)
            module.bias.copy_(torch.from_numpy(np.array(leaves["bias"])))
