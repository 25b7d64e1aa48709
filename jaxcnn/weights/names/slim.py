"""TF-slim's checkpoints: vgg_a, vgg_16, vgg_19 and inception_v1."""

from __future__ import annotations

from jaxcnn.weights.names import layers
from jaxcnn.weights.naming import BatchNorm, Form

# Fully connected layers are convolutions.
SLIM = {"conv": "HWIO", "map": "HWIO", "flat": "HWIO"}
_VGG = {"A": "vgg_a", "D": "vgg_16", "E": "vgg_19"}
_STEM = {"conv1": "Conv2d_1a_7x7", "conv2_reduce": "Conv2d_2b_1x1", "conv2": "Conv2d_2c_3x3"}
_BRANCHES = (
    "Branch_0/Conv2d_0a_1x1", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_3x3",
    "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x3", "Branch_3/Conv2d_0b_1x1",
)  # fmt: skip
_CLASSIFIER = "InceptionV1/Logits/Conv2d_0c_1x1"
_TRAINING = {
    r"(.*/)?global_step|beta[12]_power": "counters of training",
    r".*/(Momentum|RMSProp(_1)?|Adam(_1)?)": "state of an optimizer",
    r".*/ExponentialMovingAverage": "moving averages of the weights, beside the weights themselves",
}


def _vgg(column: str) -> Form:
    def arrays(layer: str) -> tuple[str, str]:
        block = f"{layer.partition('_')[0]}/" if layer.startswith("conv") else ""
        there = f"{_VGG[column]}/{block}{layer}"
        return f"{there}/weights", f"{there}/biases"

    rows = layers.places(layers.vgg(column), arrays, SLIM)
    mean = {r"vgg_\w+/mean_rgb": "the mean, which the source states"}
    return Form("slim", {"name": "vgg", "column": column}, rows, {**_TRAINING, **mean})


def inception_scope(layer: str) -> str:
    """TF-slim's scope of a convolution of GoogLeNet."""
    module, _, name = layer.partition("/")
    if not name:
        return _CLASSIFIER if layer == "fc" else f"InceptionV1/{_STEM[layer]}"
    number, letter = module.removeprefix("inception_")
    branch = _BRANCHES[layers.INCEPTION_CONVOLUTIONS.index(name)]
    if (module, name) == ("inception_5a", "conv5x5"):  # so in its source, and in its checkpoint
        branch = "Branch_2/Conv2d_0a_3x3"
    return f"InceptionV1/Mixed_{number}{chr(ord(letter) + 1)}/{branch}"  # its modules begin with b


def _inception() -> Form:
    def arrays(layer: str) -> tuple[str, str]:
        scope = inception_scope(layer)
        return f"{scope}/weights", f"{scope}/biases" if layer == "fc" else ""

    def norm(layer: str) -> BatchNorm | None:
        there = f"{inception_scope(layer)}/BatchNorm"
        found = BatchNorm(
            "", f"{there}/beta", f"{there}/moving_mean", f"{there}/moving_variance", 1e-3
        )
        return None if layer == "fc" else found

    model = {
        "name": "googlenet", "branch5x5": 3, "pool4": "2/2", "lrn": False, "dropout": 0.2,
        "conv1_padding": "same",
    }  # fmt: skip
    rows = layers.places(layers.googlenet(auxiliary=False), arrays, SLIM, norm)
    return Form("slim", model, rows, _TRAINING)


def forms() -> tuple[Form, ...]:
    return (*map(_vgg, _VGG), _inception())
