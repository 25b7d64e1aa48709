"""The compiled rescale against Pillow's."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxcnn.data.resize import bilinear


def rescaled(pixels, region, size):
    out = np.full((*size, 3), 7, np.uint8)
    bilinear(pixels, region, out)
    return out


@pytest.mark.parametrize(
    ("shape", "region", "size"),
    [
        ((300, 400), (10.25, 20.5, 330.75, 280.0), (224, 224)),  # smaller
        ((60, 80), (0.0, 0.0, 80.0, 60.0), (224, 224)),  # larger
        ((50, 500), (0.0, 0.0, 500.0, 50.0), (64, 64)),  # both
        ((400, 480), (0.0, 0.0, 480.0, 400.0), (224, 224)),  # four rows of five columns
        ((7, 5), (1.0, 2.0, 4.0, 6.0), (1, 1)),
        ((1, 1), (0.0, 0.0, 1.0, 1.0), (3, 3)),
    ],
)
def test_within_one_grey_level_of_pillow(shape, region, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    image = Image.fromarray(pixels)
    expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box=region))
    assert np.abs(rescaled(pixels, region, size).astype(int) - expected).max() <= 1


def test_a_flat_image_stays_flat_and_an_equal_size_stays_the_same():
    flat = np.full((37, 53, 3), 255, np.uint8)
    assert_array_equal(rescaled(flat, (0.3, 0.7, 52.1, 36.2), (24, 24)), np.full((24, 24, 3), 255))
    noise = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
    assert_array_equal(rescaled(noise, (0.0, 0.0, 9.0, 9.0), (9, 9)), noise)


def test_only_the_output_array_is_written():
    out = np.zeros((4, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="contiguous"):
        bilinear(np.full((9, 9, 3), 9, np.uint8), (0.0, 0.0, 9.0, 9.0), out[:, :4])
    bilinear(np.full((9, 9, 3), 9, np.uint8), (0.0, 0.0, 9.0, 9.0), out[1:3])
    assert (out[1:3] == 9).all()
    assert not out[[0, 3]].any()
