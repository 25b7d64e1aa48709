"""VGG16 and VGG19 that Keras wrote: the import computes what Keras computes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models.vgg import COLUMNS
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.read import read_weights
from tests.models.narrow import quick_jit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's own
]
CLASSES = tuple("abcdefg")
COLUMN = {"vgg16": "D", "vgg19": "E"}
KINDS = ("h5", "weights.h5", "keras")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def keras():
    """The package, with numbers of its own: it draws from global generators."""
    import keras

    keras.utils.set_random_seed(0)
    return keras


def narrow(keras, name):
    """The application, an eighth as wide, for 64 pixels: fc6 reads a map of 2x2."""
    layers = keras.layers
    x = inputs = keras.Input((64, 64, 3))
    widths = (8, 16, 32, 64, 64)
    for block, kernels in enumerate(COLUMNS[COLUMN[name]].kernels, start=1):
        for number in range(1, len(kernels) + 1):
            layer = layers.Conv2D(
                widths[block - 1], 3, padding="same", activation="relu",
                name=f"block{block}_conv{number}",
            )  # fmt: skip
            x = layer(x)
        x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = layers.Dense(512, activation="relu", name=f"fc{number}")(x)
    x = layers.Dense(len(CLASSES), name="predictions")(x)
    return keras.Model(inputs, x, name=name)


def full(keras, name):
    application = getattr(keras.applications, name.upper())
    return application(weights=None, classifier_activation=None)


def with_biases(model):
    """Random biases: Keras draws zeros, which would hide any error in them."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, 0.1 * generator.normal(size=bias.shape)])
    return model


def saved(model, path):
    save = model.save_weights if path.name.endswith(".weights.h5") else model.save
    save(path)
    return path


def difference(model, weights, params, images):
    """The largest difference of logits, relative to the standard deviation of Keras's."""
    expected = model.predict((images - weights.mean)[..., ::-1], verbose=0)
    forward = quick_jit(lambda params, x: weights.net.apply({"params": params}, x)[0])
    found = np.asarray(forward(params, jnp.asarray(images - weights.mean)))
    return np.abs(found - expected).max() / expected.std()


def pictures(count, side):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COLUMN)
def test_the_logits_are_kerass_and_those_of_wrong_imports_are_not(keras, name, kind, tmp_path):
    model = with_biases(narrow(keras, name))
    path = saved(model, tmp_path / f"a.{kind}")
    weights = read_weights(path, Choices(source="keras", classes=CLASSES))
    assert weights.model["column"] == COLUMN[name]
    assert weights.model["image_size"] == 64
    images, params = pictures(4, 64), weights.params()
    assert difference(model, weights, params, images) < TOLERANCE
    for layer, wrong in wrong_imports(params).items():
        changed = {**params, layer: {**params[layer], "kernel": wrong}}
        assert difference(model, weights, changed, images) > 100 * TOLERANCE, layer


def wrong_imports(params):
    """Kernels without the flip to RGB, with rows left channel-major, and transposed in space."""
    fc6 = params["fc6"]["kernel"]
    side, _, inputs, outputs = fc6.shape
    rows = fc6.reshape(inputs, side, side, outputs)
    return {
        "conv1_1": params["conv1_1"]["kernel"][:, :, ::-1],
        "fc6": rows.transpose(1, 2, 0, 3),
        "conv3_1": params["conv3_1"]["kernel"].transpose(1, 0, 2, 3),
    }


@pytest.mark.parametrize(("name", "kind"), [("vgg16", "keras"), ("vgg19", "weights.h5")])
def test_the_applications_at_full_width(keras, name, kind, tmp_path):
    model = with_biases(full(keras, name))
    weights = read_weights(saved(model, tmp_path / f"a.{kind}"), Choices(source="keras"))
    assert weights.model["width"] == 1
    assert difference(model, weights, weights.params(), pictures(2, 224)) < TOLERANCE
