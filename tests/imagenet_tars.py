"""ImageNet's two tars with the true names and any number of images, each a tiny JPEG that holds its own name.

python tests/imagenet_tars.py FOLDER writes all 1,281,167 + 50,000 of them (2.6 GB, a minute).
"""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from jaxcnn.data import class_table
from jaxcnn.data.preparation.imagenet import TARS, Tar

TRAIN_IMAGES, VAL_IMAGES = 1_281_167, 50_000
TRAIN_TAR, VAL_TAR = TARS
_LOOKS = 256
_COMMENT = b"\xff\xfe"


def write_tars(folder, train=TRAIN_IMAGES, val=VAL_IMAGES, classes=1000):
    """Writes both tars into `folder`; returns what `prepare_imagenet` expects of them.

    Args:
      train: images of training, spread evenly over the first `classes` classes.
      val: images of validation, whose labels TFDS has.
    """
    looks = [_jpeg(seed) for seed in range(_LOOKS)]
    numbers = np.array_split(np.arange(train), classes)
    with tarfile.open(folder / TRAIN_TAR, "w") as tar:
        for row, of_class in zip(class_table(), numbers, strict=False):
            inner = io.BytesIO()
            names = (f"{row.wnid}_{number}.JPEG" for number in of_class.tolist())
            _write(inner, names, looks)
            _add(tar, f"{row.wnid}.tar", inner.getvalue())
    with open(folder / VAL_TAR, "wb") as file:
        _write(file, (f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, val + 1)), looks)
    return {name: Tar((folder / name).stat().st_size, "") for name in TARS}


def name_in(data):
    """The name that an image of the tars holds."""
    length = int.from_bytes(data[4:6])
    return data[6 : 4 + length].decode()


def _write(file, names, looks):
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i, name in enumerate(names):
            text = name.encode()
            comment = _COMMENT + (2 + len(text)).to_bytes(2) + text
            look = looks[i % _LOOKS]
            _add(tar, name, look[:2] + comment + look[2:])


def _add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _jpeg(seed):
    """A smooth image of 48 to 63 pixels in height and width; about 1 kB."""
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(48, 64, 2))
    coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    write_tars(Path(sys.argv[1]))
