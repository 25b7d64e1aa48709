"""A net as a list of layers that another framework can build: plain data, from tracing the net.

```text
["conv", name, inputs, outputs, side, stride, before, after, groups]    with bias
["relu"]  ["max_pool", side, stride, before, after]  ["average_pool", side, stride]
["lrn", n, alpha, beta, k, towers]    alpha multiplies the sum, not the mean
["linear", name, inputs, outputs]    feature maps are flattened as (channel, row, column)
["dropout", rate]  ["concat", [layer, ...], ...]  ["auxiliary", [layer, ...]]
```
"""

from __future__ import annotations

from typing import Any

from flax.traverse_util import flatten_dict

from jaxcnn.models import ops
from jaxcnn.models.net import Net
from jaxcnn.models.summary import called_modules

Layers = list[list[Any]]


def layer_list(net: Net) -> Layers:
    """The layers of a net, auxiliary heads included.

    Raises:
        ValueError: no peer can be built of this net or variant.
    """
    calls, params = called_modules(net)
    leaves: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    lists: dict[str, Layers] = {"": []}  # of the net, of each branch of a module, of each head
    maps = 3
    for path, modules in calls.items():
        outer, _, name = path.rpartition("/")
        layers = lists.get(f"{outer}/{name.partition('_')[0]}", lists.get(outer, []))
        kind = type(modules[0]).__name__
        if kind == "Inception" and modules[0].module == "reduced":
            branches = [f"{path}/{branch}" for branch in ("conv1x1", "conv3x3", "conv5x5", "pool")]
            lists |= {branch: [] for branch in branches}
            layers.append(["concat", *(lists[branch] for branch in branches)])
        elif kind == "Auxiliary":
            lists[path] = []
            layers.append(["auxiliary", lists[path]])
        else:
            kernel: Any = getattr(leaves.get(f"{path}/kernel"), "shape", ())
            groups = 1
            if kind == "Conv" and not outer:  # AlexNet's towers are groups of one convolution
                groups, maps = maps // kernel[2], kernel[3]
            layers += _layer(modules[0], path, kernel, groups, len(modules))
    return lists[""]


def _layer(module: Any, name: str, kernel: tuple[int, ...], groups: int, calls: int) -> Layers:
    """A layer and its activation; for LRN inside towers, `calls` is the number of towers."""
    activation = {"relu": [["relu"]], "none": []}.get(getattr(module, "activation", "none"))
    window: Any = getattr(module, "window", None)
    match type(module).__name__:
        case "Conv" if not module.depthwise and activation is not None:
            shape = [kernel[2] * groups, kernel[3], window.size, window.stride]
            return [["conv", name, *shape, window.before, window.after, groups], *activation]
        case "FullyConnected" if activation is not None:
            return [["linear", name, kernel[0] * kernel[1] * kernel[2], kernel[3]], *activation]
        case "MaxPool":
            return [["max_pool", window.size, window.stride, window.before, window.after]]
        case "AveragePool":
            return [["average_pool", window.size, window.stride]]
        case "LocalResponseNorm":
            c = ops.LRN_CONSTANTS[module.constants]
            alpha = c.alpha / c.n if c.alpha_over_n else c.alpha
            return [["lrn", c.n, alpha, c.beta, c.k, calls]]
        case "Dropout":
            return [["dropout", module.rate]]
    raise ValueError(f"no peer can be built of this net or variant, because of its layer {name}")
