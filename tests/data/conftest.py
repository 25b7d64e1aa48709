"""Small encoded images, and folders of them for each test."""

import io

import numpy as np
import pytest
from PIL import Image


def make_pixels(height, width, seed=0):
    """A smooth random image, uint8[height, width, 3], which JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Listed:
    """A source of given (bytes, label); an exception among them is raised."""

    class_names = ("one", "two")

    def __init__(self, results):
        self.results = results
        self.ids = np.arange(len(results))

    def __len__(self):
        return len(self.results)

    def read(self, index):
        result = self.results[index]
        if isinstance(result, Exception):
            raise result
        return result

    def name(self, index):
        return f"listed#{index}"


@pytest.fixture
def listed():
    return Listed


@pytest.fixture
def smooth_image():
    return make_pixels


@pytest.fixture
def encoded():
    return encode


@pytest.fixture
def image_folder(tmp_path):
    """PATH with train/ (5 a class) and val/ (3 a class) of classes ant, bee, cat."""
    for split, count in (("train", 5), ("val", 3)):
        for k, name in enumerate(("ant", "bee", "cat")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = make_pixels(40 + i, 52 - 3 * i, 100 * k + i)
                (folder / f"{i}.jpg").write_bytes(encode(pixels, quality=95))
    return tmp_path
