"""A net as a TensorFlow SavedModel, by jax2tf: it needs TensorFlow alone.

Its signature `serving_default` takes `images` and puts out the program's outputs and `classes`, the class
names. The parameters are variables: as constants they would meet the limit of 2 GB on a graph. The program
is compiled by XLA when it is called. `assets.extra/program.json` describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.files import WriteError, system_error, write_text, writing
from jaxcnn.models.kernels.dispatch import plain_forms
from jaxcnn.weights.programs.description import describe
from jaxcnn.weights.programs.program import BATCH, INPUT, PLATFORMS, Program

FACTS = "assets.extra/program.json"  # TensorFlow's own name of a folder for such files
SIGNATURE = "serving_default"
USAGE = """\
import tensorflow as tf
run = tf.saved_model.load(".").signatures["serving_default"]
outputs = run(images=tf.constant(images))
"""


def write_savedmodel(program: Program, folder: Path, origin: Mapping[str, Any]) -> None:
    """Writes the SavedModel into `folder`, which it makes. Raises WriteError."""
    tf = load_tensorflow()
    from jax.experimental import jax2tf  # imports TensorFlow

    converted = jax2tf.convert(
        program.__call__,
        polymorphic_shapes=[None, f"({BATCH}, ...)"],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    module = tf.Module()
    module.weights = {
        path: tf.Variable(np.asarray(leaf), trainable=False, name=path.replace("/", "_"))
        for path, leaf in program.weights.items()
    }
    images = tf.TensorSpec([None, *program.size, 3], tf.uint8, name=INPUT)

    def serve(images: Any) -> dict[str, Any]:
        outputs = converted(dict(module.weights), images)
        names = {"classes": tf.constant(program.classes)} if "probabilities" in outputs else {}
        return outputs | names

    with plain_forms():
        function = tf.function(serve, autograph=False).get_concrete_function(images)
    try:
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: function})
    except Exception as error:  # TensorFlow's own types
        if (cause := system_error(error)) is None:
            raise
        raise WriteError(cause.errno, cause.strerror, str(folder)) from error
    with writing(folder):
        (folder / FACTS).parent.mkdir()
    write_text(folder / FACTS, describe(program, [f"tensorflow>={tf.__version__}"], USAGE, origin))


def read_savedmodel(folder: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The function from images to outputs that a SavedModel holds."""
    tf = load_tensorflow()
    call = tf.saved_model.load(str(folder)).signatures[SIGNATURE]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = call(images=tf.constant(images))
        except tf.errors.InvalidArgumentError as error:
            if "deserialize" not in str(error):
                raise
            raise ValueError(
                f"TensorFlow {tf.__version__} cannot read the programs of jax {jax.__version__}: export with "
                "an older jax (constraints.txt has jax 0.10), or as --format=stablehlo or onnx"
            ) from error
        return {name: value.numpy() for name, value in outputs.items()}

    return run
