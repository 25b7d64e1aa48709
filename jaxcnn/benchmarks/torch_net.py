"""Builds a net in PyTorch from a `layer_list`, channels last. Does not import JAX."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
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
    """A torch.nn.Module: images float[B,3,H,W] -> (logits, auxiliary logits, which are [] in eval mode)."""
    torch = import_torch("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleDict()
            self.heads: list[Any] = []
            self.run = _sequence(self, layers)

        def forward(self, x: Any) -> tuple[Any, list[Any]]:
            self.heads = []
            return self.run(x), self.heads

    return Net().to(memory_format=torch.channels_last)


def _sequence(net: Any, layers: list[list[Any]]) -> Callable[[Any], Any]:
    steps = [_KINDS[kind](net, *arguments) for kind, *arguments in layers]

    def run(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return run


def _conv(
    net: Any,
    name: str,
    ins: int,
    outs: int,
    side: int,
    stride: int,
    before: int,
    after: int,
    groups: int,
) -> Callable[[Any], Any]:
    torch = import_torch("torch")
    same = before if before == after else 0
    conv = torch.nn.Conv2d(ins, outs, side, stride, same, groups=groups)
    net.layers[_key(name)] = conv
    if before == after:
        return conv
    return lambda x: conv(torch.nn.functional.pad(x, (before, after, before, after)))


def _linear(net: Any, name: str, ins: int, outs: int) -> Callable[[Any], Any]:
    linear = net.layers[_key(name)] = import_torch("torch").nn.Linear(ins, outs)
    return lambda x: linear(x.flatten(1))


def _relu(net: Any) -> Callable[[Any], Any]:
    del net
    return lambda x: import_torch("torch").nn.functional.relu(x, inplace=True)


def _max_pool(net: Any, side: int, stride: int, before: int, after: int) -> Callable[[Any], Any]:
    """The papers' pools pad both sides equally or follow Caffe's ceil rule."""
    del net
    pool = import_torch("torch").nn.functional.max_pool2d
    return lambda x: pool(x, side, stride, before, ceil_mode=after > before)


def _average_pool(net: Any, side: int, stride: int) -> Callable[[Any], Any]:
    del net
    return lambda x: import_torch("torch").nn.functional.avg_pool2d(x, side, stride)


def _lrn(
    net: Any, n: int, alpha: float, beta: float, k: float, towers: int
) -> Callable[[Any], Any]:
    del net
    torch = import_torch("torch")

    def norm(x: Any) -> Any:
        return torch.nn.functional.local_response_norm(x, n, alpha * n, beta, k)

    if towers == 1:
        return norm
    return lambda x: torch.cat([norm(part) for part in x.chunk(towers, 1)], 1)


def _dropout(net: Any, rate: float) -> Callable[[Any], Any]:
    return lambda x: import_torch("torch").nn.functional.dropout(x, rate, net.training)


def _concat(net: Any, *branches: list[list[Any]]) -> Callable[[Any], Any]:
    runs = [_sequence(net, branch) for branch in branches]
    return lambda x: import_torch("torch").cat([run(x) for run in runs], 1)


def _auxiliary(net: Any, layers: list[list[Any]]) -> Callable[[Any], Any]:
    head = _sequence(net, layers)

    def run(x: Any) -> Any:
        if net.training:
            net.heads.append(head(x))
        return x

    return run


_KINDS: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "conv": _conv,
    "linear": _linear,
    "relu": _relu,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "lrn": _lrn,
    "dropout": _dropout,
    "concat": _concat,
    "auxiliary": _auxiliary,
}


def _key(name: str) -> str:
    """A module name without slashes, which PyTorch rejects."""
    return name.replace("/", "__")


def copy_params(net: Any, params: Mapping[str, Any]) -> None:
    """Copies the JAX net's parameters, {layer: {kernel, bias}}, nested for inception modules, into `net`."""
    torch = import_torch("torch")
    for name, module in net.layers.items():
        leaves: Any = params
        for part in name.split("__"):
            leaves = leaves[part]
        kernel = np.moveaxis(np.asarray(leaves["kernel"]), (3, 2), (0, 1))  # to (k, c, h, w)
        weight = torch.from_numpy(np.ascontiguousarray(kernel.reshape(module.weight.shape)))
        with torch.no_grad():
            module.weight.copy_(weight)
            module.bias.copy_(torch.from_numpy(np.array(leaves["bias"])))
