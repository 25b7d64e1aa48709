"""Windows of several JPEGs, decoded together."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxcnn.data import jpeg
from jaxcnn.data.crops import rescaled_crop
from jaxcnn.data.decode import DecodeTask, decode, decode_many, peek
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.tensorflow import JpegWindow
from tests.data.test_decode import centre


def all_of(data):
    header = jpeg.read_header(data)
    return JpegWindow(data, (0, 0, header.height, header.width))


@pytest.fixture
def images(encoded, smooth_image):
    """Encoded images of several formats; the fifth has a readable header and broken data."""
    good = [encoded(smooth_image(40 + i, 60), quality=90) for i in range(4)]
    tables = good[1].index(b"\xff\xc4") + 5  # how many codes there are of each length
    broken = good[1][:tables] + b"\xff" * 16 + good[1][tables + 16 :]
    return [*good, broken, encoded(smooth_image(50, 50), "PNG"), good[0]]


def test_each_of_many_equals_decoding_it_alone(images):
    """Images after a broken one too."""
    crops = [centre(data) for data in images]
    many = decode_many(DecodeTask(data, [crop]) for data, crop in zip(images, crops, strict=True))
    assert [isinstance(one, CorruptImage) for one in many] == [i == 4 for i in range(7)]
    for data, crop, one in zip(images, crops, many, strict=True):
        if isinstance(one, CorruptImage):
            with pytest.raises(CorruptImage, match="broken JPEG") as error:
                decode(data, crop)
            assert str(error.value) == str(one)
        else:
            assert_array_equal(one[0], decode(data, crop))


@pytest.mark.parametrize("interpolation", ["bilinear", "cubic"])
@pytest.mark.parametrize("side", [20, 32])  # copied pixels; resized pixels
def test_pixels_are_written_to_the_given_array(images, encoded, smooth_image, interpolation, side):
    cmyk = Image.fromarray(smooth_image(40, 60)).convert("CMYK")
    for data in [images[0], encoded(smooth_image(40, 60), "PNG"), encoded(cmyk)]:
        size = peek(data)
        scale = min(size) if side == 20 else 36
        crop = rescaled_crop(*size, scale=scale, top=3, left=5, side=side)
        crop = crop._replace(interpolation=interpolation)
        batch = np.zeros((3, side, side, 3), np.uint8)
        (found,) = decode_many([DecodeTask(data, [crop], [batch[1]])])[0]
        assert np.shares_memory(found, batch)
        assert_array_equal(batch[1], decode(data, crop))
        assert batch[1].any()
        assert not batch[[0, 2]].any()


def test_one_call_decodes_a_bounded_number_of_pixels(images, monkeypatch):
    calls: list[int] = []
    call = jpeg.decode_jpegs
    monkeypatch.setattr(jpeg, "decode_jpegs", lambda group: calls.append(len(group)) or call(group))
    windows = [all_of(data) for data in images[:4]]
    together = list(jpeg.decode_windows(windows))
    monkeypatch.setattr(jpeg, "_GROUP_PIXELS", 41 * 60 * 2)
    apart = list(jpeg.decode_windows(windows))
    assert calls == [4, 2, 1, 1]  # 40 and 41 rows fit into one call; 42 and 43 do not
    for one, other in zip(together, apart, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("width", [100, 96])
def test_aligned_box_contains_the_box_and_starts_at_a_block(width):
    rng = np.random.default_rng(0)
    for left in rng.integers(0, width - 1, 50):
        across = int(rng.integers(1, width - left + 1))
        top, first, height, wide = jpeg.align_to_blocks((3, int(left), 7, across), width)
        assert (top, height) == (3, 7)
        assert first <= left
        assert left + across <= first + wide <= width
        assert first % 16 == 0
        assert (first + wide) % 16 == 0 or first + wide == width
