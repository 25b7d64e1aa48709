"""torchvision's state dicts, and timm's of the same weights."""

from __future__ import annotations

from functools import partial

from jaxcnn.models.vgg import COLUMNS
from jaxcnn.weights.names import layers
from jaxcnn.weights.naming import BatchNorm, Form

TORCH = {"conv": "OIHW", "map": "O(IHW)", "flat": "OI"}
# timm keeps VGG's first two fully connected layers as convolutions.
TIMM = {"conv": "OIHW", "map": "OIHW", "flat": "OI"}
_COUNTERS = {r".*\.num_batches_tracked": "counters of training"}
_CLASSIFIER = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
_HEADS = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
_ALEXNET = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8",
    "conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6",
}  # fmt: skip
_GOOGLENET = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3", "fc": "fc"}
_BRANCHES: dict[str, str] = dict(
    zip(
        layers.INCEPTION_CONVOLUTIONS,
        ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1"),
        strict=True,
    )
)


def vgg_modules(column: str, *, batch_norm: bool) -> dict[str, str]:
    """Name of a convolution here -> its module: each is followed by a ReLU, a block by a pool."""
    found, index = {}, 0
    for block, kernels in enumerate(COLUMNS[column].kernels, start=1):
        for position in range(1, len(kernels) + 1):
            found[f"conv{block}_{position}"] = f"features.{index}"
            index += 3 if batch_norm else 2
        index += 1
    return found


def _arrays(modules: dict[str, str], layer: str) -> tuple[str, str]:
    return f"{modules[layer]}.weight", f"{modules[layer]}.bias"


def _vgg_norm(convolutions: dict[str, str], layer: str) -> BatchNorm | None:
    if layer not in convolutions:
        return None
    index = int(convolutions[layer].removeprefix("features."))
    return _norm(f"features.{index + 1}", 1e-5)


def _norm(module: str, epsilon: float) -> BatchNorm:
    return BatchNorm(
        f"{module}.weight",
        f"{module}.bias",
        f"{module}.running_mean",
        f"{module}.running_var",
        epsilon,
    )


def _vgg(program: str, column: str, *, batch_norm: bool) -> Form:
    convolutions = vgg_modules(column, batch_norm=batch_norm)
    timm = program == "timm"
    modules = {**convolutions, **(_HEADS if timm else _CLASSIFIER)}
    norm = partial(_vgg_norm, convolutions) if batch_norm else lambda _: None
    rows = layers.places(
        layers.vgg(column), partial(_arrays, modules), TIMM if timm else TORCH, norm
    )
    if timm:  # fc7 is a convolution of 1x1
        rows = tuple(p._replace(layout="OIHW") if p.leaf == "fc7/kernel" else p for p in rows)
    return Form(program, {"name": "vgg", "column": column}, rows, _COUNTERS if batch_norm else {})


def _googlenet_module(layer: str) -> str:
    if layer in _GOOGLENET:
        return _GOOGLENET[layer]
    module, _, convolution = layer.partition("/")
    return f"{module.replace('_', '')}.{_BRANCHES[convolution]}"


def _googlenet() -> Form:
    def arrays(layer: str) -> tuple[str, str]:
        module = _googlenet_module(layer)
        return ("fc.weight", "fc.bias") if layer == "fc" else (f"{module}.conv.weight", "")

    def norm(layer: str) -> BatchNorm | None:
        return None if layer == "fc" else _norm(f"{_googlenet_module(layer)}.bn", 1e-3)

    rows = layers.places(layers.googlenet(auxiliary=False), arrays, TORCH, norm)
    dropped = {r"aux[12]\..*": "auxiliary heads, which the source did not train", **_COUNTERS}
    model = {"name": "googlenet", "branch5x5": 3, "pool4": "2/2", "lrn": False, "dropout": 0.2}
    return Form("torchvision", model, rows, dropped)


def _alexnet() -> Form:
    model = {"name": "alexnet", "towers": 1, "widths": "one_weird_trick", "lrn": "off"}
    rows = layers.places(layers.alexnet(), partial(_arrays, _ALEXNET), TORCH)
    return Form("torchvision", model, rows)


def forms() -> tuple[Form, ...]:
    vggs = [
        _vgg(program, column, batch_norm=batch_norm)
        for program in ("torchvision", "timm")
        for column in ("A", "B", "D", "E")
        for batch_norm in (False, True)
    ]
    return (*vggs, _alexnet(), _googlenet())
