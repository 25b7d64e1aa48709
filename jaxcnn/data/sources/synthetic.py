"""Generated JPEGs for dry runs, benchmarks, and tests that need learnable data."""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image

from jaxcnn.data.errors import DataError
from jaxcnn.data.sampler import RandomStream, random_bits
from jaxcnn.data.sources.source import Opened, Recorded, Records

_TRAIN_PER_CLASS, _EVAL_PER_CLASS = 64, 16
# (height, width): ImageNet's typical shape after the rescale, and a size for small fast runs.
_LARGE, _SMALL = (256, 341), (64, 80)
# Limits the memory for encoded images: about 50 MB at the large size.
_CACHED = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticSource(Recorded):
    """A class is a hue and a number of stripes; phase and noise differ from image to image."""

    class_names: tuple[str, ...]
    per_class: int
    split: int
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.class_names) * self.per_class

    def read(self, index: int) -> tuple[bytes, int]:
        label = index % len(self.class_names)
        return _encoded(label, len(self.class_names), self.split, index, self.shape), label

    def records(self) -> Records:
        names = np.full(len(self), b"%d x %d" % self.shape)
        labels = np.arange(len(self)) % len(self.class_names)
        return Records(names, labels, np.zeros(len(self), np.int64), np.empty(0, np.uint32))

    def name(self, index: int) -> str:
        return f"synthetic#{index}"


@functools.lru_cache(_CACHED)
def _encoded(label: int, classes: int, split: int, index: int, shape: tuple[int, int]) -> bytes:
    bits = random_bits(RandomStream.SYNTHETIC, split, 0, index, 2)
    height, width = shape
    # Stripes are horizontal, so that a flip keeps the class.
    stripes = 2 + 2 * (label % 3)
    phase = float(bits[0] >> np.uint64(11)) / 2**53
    wave = np.sin(2 * np.pi * (stripes * np.arange(height) / height + phase))
    hue = 2 * np.pi * label / classes
    colour = 128 + 70 * np.cos(hue - np.array([0.0, 2.1, 4.2]))
    image = colour + 40 * wave[:, None, None] * np.ones((1, width, 1))
    noise = random_bits(RandomStream.SYNTHETIC, split, 1, index, -(-height * width * 3 // 8))
    grain = noise.view(np.uint8)[: height * width * 3].reshape(height, width, 3)
    pixels = np.clip(image + (grain.astype(np.float64) - 127.5) / 8, 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def open_synthetic(argument: str) -> Opened:
    """Opens 'synthetic' ('') or 'synthetic:K' ('K')."""
    if argument and not (argument.isascii() and argument.isdigit() and 2 <= int(argument) <= 1000):
        raise DataError(
            f"synthetic:{argument}: expected a number of classes from 2 to 1000, as in synthetic:4"
        )
    names = tuple(f"class_{k:03d}" for k in range(int(argument or 1000)))
    height, width = shape = _SMALL if argument else _LARGE
    train = SyntheticSource(names, _TRAIN_PER_CLASS, 0, shape)
    evaluation = SyntheticSource(names, _EVAL_PER_CLASS, 1, shape)
    note = f", generated {width} x {height} JPEGs"
    return Opened(train, evaluation, "evaluation", "synthetic", note)
