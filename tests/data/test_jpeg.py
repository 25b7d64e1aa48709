"""Windows of several JPEGs, decoded together."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxcnn.data import jpeg
from jaxcnn.data.crops import center_crop_view
from jaxcnn.data.decode import Request, decode_many, decode_view, decode_views
from jaxcnn.data.errors import CorruptImage
from tests.data.test_decode import centre


def all_of(data):
    header = jpeg.read_header(data)
    return jpeg.Window(data, (0, 0, header.height, header.width))


@pytest.fixture
def images(encoded, picture):
    """Of several formats, two of which cannot be read."""
    good = [encoded(picture(40 + i, 60), quality=90) for i in range(4)]
    tables = good[1].index(b"\xff\xc4") + 5  # how many codes there are of each length
    broken = good[1][:tables] + b"\xff" * 16 + good[1][tables + 16 :]
    return [*good, broken, encoded(picture(50, 50), "PNG"), b"no image", good[0]]


def test_each_of_many_is_what_it_is_alone(images):
    """Those after a broken one too."""
    many = decode_many(Request(data, lambda h, w: [centre(h, w)]) for data in images)
    assert [isinstance(one, CorruptImage) for one in many] == [False] * 4 + [
        True,
        False,
        True,
        False,
    ]
    for data, one in zip(images, many, strict=True):
        if isinstance(one, CorruptImage):
            with pytest.raises(CorruptImage) as error:
                decode_view(data, centre)
            assert str(error.value) == str(one)
            assert str(one).startswith(("broken JPEG", "not a readable"))
        else:
            pixels, view = decode_view(data, centre)
            assert_array_equal(one[0][0], pixels)
            assert one[1] == [view]


@pytest.mark.parametrize("interpolation", ["bilinear", "cubic"])
@pytest.mark.parametrize("side", [20, 32])  # the image's own pixels; rescaled
def test_pixels_are_written_where_they_are_wanted(images, encoded, picture, interpolation, side):
    def views(height, width):
        scale = min(height, width) if side == 20 else 32
        return [
            center_crop_view(
                height, width, scale=scale, image_size=side, interpolation=interpolation
            )
        ]

    inks = Image.fromarray(picture(40, 60)).convert("CMYK")
    for data in [images[0], encoded(picture(40, 60), "PNG"), encoded(inks)]:
        ((expected,), _) = decode_views(data, views)
        batch = np.zeros((3, side, side, 3), np.uint8)
        ((found,), _) = decode_many([Request(data, views, [batch[1]])])[0]
        assert np.shares_memory(found, batch)
        assert_array_equal(batch[1], expected)
        assert expected.any()
        assert not batch[[0, 2]].any()


def test_one_call_decodes_no_more_pixels_than_it_may(images, monkeypatch):
    calls: list[int] = []
    decoder = jpeg._decoder
    monkeypatch.setattr(jpeg, "_decoder", lambda count: calls.append(count) or decoder(count))
    windows = [all_of(data) for data in images[:4]]
    together = list(jpeg.decode_windows(windows))
    monkeypatch.setattr(jpeg, "_GROUP_PIXELS", 41 * 60 * 2)
    apart = list(jpeg.decode_windows(windows))
    assert calls == [4, 2]  # 40 and 41 rows; the others, of 42 and 43, are alone
    for one, other in zip(together, apart, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("width", [100, 96])
def test_an_aligned_box_holds_the_box_and_begins_with_a_block(width):
    rng = np.random.default_rng(0)
    for left in rng.integers(0, width - 1, 50):
        across = int(rng.integers(1, width - left + 1))
        top, first, height, wide = jpeg.align((3, int(left), 7, across), width)
        assert (top, height) == (3, 7)
        assert first <= left
        assert left + across <= first + wide <= width
        assert first % 16 == 0
        assert (first + wide) % 16 == 0 or first + wide == width
