"""The handwritten digits of scikit-learn as a prepared TFDS data set; nothing is downloaded.

1,797 grey images of 8 x 8 pixels in ten classes (the test part of the UCI set "Optical Recognition
of Handwritten Digits"), enlarged to 64 x 64 and stored as JPEGs, so that they use the same files, index and
decoder as ImageNet.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxcnn.data.errors import DataError
from jaxcnn.data.preparation.upload import prepared_in
from jaxcnn.data.sampler import RandomStream, permutation
from jaxcnn.data.sources.tfds_metadata import TFRECORD, find_in_format, find_prepared
from jaxcnn.data.tensorflow import load_tfds
from jaxcnn.files import system_error, writing
from jaxcnn.paths import Path
from jaxcnn.printable import say

NAME, VERSION = "digits", "1.0.0"
SIDE, QUALITY = 64, 95
# A fifth of each class is for evaluation.
_EVALUATION_SHARE = 5


def prepare_digits(data_dir: Path, file_format: str = "") -> Path:
    """Writes the data set under `data_dir` if it is not there; returns `data_dir`.

    `file_format` is tfrecord, also if it is '', or array_record; '' takes what is there.

    TFDS writes into a temporary folder and renames it at the end, so an interrupted process leaves nothing
    that looks like the data set.
    """
    if find_in_format(NAME, data_dir, file_format) is not None:
        return data_dir
    with prepared_in(data_dir, NAME) as local:
        _prepare(local, file_format)
    say(f"prepared the handwritten digits in {data_dir / NAME / VERSION}")
    return data_dir


def _prepare(data_dir: Path, file_format: str) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {data_dir}: {error.strerror}; name a folder that you can "
            "write to with --config.data.data_dir=DIR or $TFDS_DATA_DIR"
        ) from error
    tfds = load_tfds()
    # TFDS prints that it downloads, which it does not.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        tfds.display_progress_bar(False)
        builder = _builder_class()(data_dir=str(data_dir))
        try:
            builder.download_and_prepare(file_format=file_format or TFRECORD)
        except Exception as error:  # TensorFlow has errors of its own for those of the disk
            # Another process may have renamed its folder first.
            if find_prepared(NAME, data_dir) is None:
                with writing(data_dir / NAME):
                    raise system_error(error) or error from error


def split_digits(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (train, evaluation): sorted positions; a fixed fifth of each class is for evaluation."""
    evaluation = []
    for label in range(10):
        positions = np.flatnonzero(labels == label)
        order = permutation(RandomStream.HELD_OUT, 0, 1 + label, len(positions))
        evaluation.append(positions[order[: len(positions) // _EVALUATION_SHARE]])
    held = np.sort(np.concatenate(evaluation))
    return np.setdiff1d(np.arange(len(labels)), held), held


def encode_digit(image: np.ndarray) -> bytes:
    """Encodes float[8,8] in 0..16, 16 is ink, as a JPEG of 64 x 64 pixels with light ink on dark."""
    grey = np.clip(np.rint(image * (255 / 16)), 0, 255).astype(np.uint8)
    enlarged = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    enlarged.convert("RGB").save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _examples(split: int) -> Iterator[tuple[int, dict[str, Any]]]:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    for position in split_digits(digits.target)[split]:
        image = encode_digit(digits.images[position])
        yield int(position), {"image": io.BytesIO(image), "label": int(digits.target[position])}


@functools.cache
def _builder_class() -> Any:
    tfds = load_tfds()

    # TFDS registers a builder class when it is defined, which must happen once.
    class Digits(tfds.core.GeneratorBasedBuilder):
        name = NAME
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=__doc__,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="jpeg"),
                        "label": tfds.features.ClassLabel(names=[str(k) for k in range(10)]),
                    }
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=False,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager  # nothing to download
            return {"train": _examples(0), "validation": _examples(1)}

        def _generate_examples(self) -> Any:
            raise NotImplementedError

    return Digits
