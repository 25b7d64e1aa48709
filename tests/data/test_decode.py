import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data.crops import ResizedCrop, crop_in_source, rescaled_crop, rescaled_size
from jaxcnn.data.decode import decode, peek
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.eval_crops import center_crop
from jaxcnn.data.jpeg import read_header


def centre(data):
    """The centre crop of an encoded image that `decode` takes."""
    return crop_in_source(*peek(data), 32, center_crop(*peek(data), 32, 32).box)


def decode_centre(data):
    return decode(data, centre(data))


FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "cubic": Image.Resampling.BICUBIC,
}


def reference(data, crop, scale):
    """Decodes, rescales and crops the whole image."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    tall, wide = rescaled_size(image.height, image.width, scale)
    scaled = np.asarray(image.resize((wide, tall), FILTERS[crop.interpolation]))
    top, left = crop.box[:2]
    return scaled[top : top + crop.size[0], left : left + crop.size[1]]


def difference(first, second):
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def assert_alike(got, wanted, interpolation):
    """Equal to one grey level; for cubic, which Pillow clips between its passes, nearly everywhere."""
    far = np.abs(got.astype(int) - wanted) > 1
    assert far.mean() <= (1e-3 if interpolation == "cubic" else 0)


def noisy(smooth_image, height, width):
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3), np.uint8)
    return smooth_image(height, width) // 2 + noise


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    # Sizes at which no pixel's centre lies between two pixels: there 'area' and 'nearest' are free.
    ("height", "width", "scale"),
    [(190, 241, 64), (101, 67, 81), (24, 40, 72)],
)
def test_window_equals_full_decode(
    encoded, smooth_image, height, width, scale, subsampling, progressive, interpolation
):
    pixels = noisy(smooth_image, height, width)
    data = encoded(pixels, quality=90, subsampling=subsampling, progressive=progressive)
    side = 64
    tall, wide = rescaled_size(height, width, scale)
    down, across = tall - side, wide - side
    for top in {0, down // 2, down}:
        for left in {0, across // 3, across}:
            crop = rescaled_crop(height, width, scale=scale, top=top, left=left, side=side)
            crop = crop._replace(interpolation=interpolation)
            got = decode(data, crop)
            assert got.shape == (side, side, 3)
            assert got.dtype == np.uint8
            assert_alike(got, reference(data, crop, scale), interpolation)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("region", "side"),
    [
        ((30.25, 17.5, 171.5, 180.0), 64),
        ((100.3, 90.7, 131.1, 133.3), 64),  # enlarged
        ((0.0, 0.0, 241.0, 190.0), 64),
        (
            (90.0, 60.0, 150.0, 120.0),
            3,
        ),  # the filter's reach, 40 pixels of 'cubic', is most of the window
    ],
)
def test_region_equals_full_decode(encoded, smooth_image, region, side, interpolation):
    data = encoded(noisy(smooth_image, 190, 241), quality=90)
    image = Image.open(io.BytesIO(data))
    crop = ResizedCrop(190, 241, region, (side, side), (0, 0, side, side), interpolation)
    wanted = np.asarray(image.resize((side, side), FILTERS[interpolation], box=region))
    assert_alike(decode(data, crop), wanted, interpolation)


def test_the_window_covers_the_reach_of_cubic(encoded):
    """One pixel of 50 x 50: cubic reads 200 x 200, of which the outer 42 are white here and the rest grey."""
    pixels = np.full((600, 600, 3), 255, np.uint8)
    pixels[221:379, 221:379] = 128
    data = encoded(pixels, quality=100, subsampling=0)
    region = (275.0, 275.0, 325.0, 325.0)
    crop = ResizedCrop(600, 600, region, (1, 1), (0, 0, 1, 1), "cubic")
    got = decode(data, crop).astype(int)
    whole = Image.open(io.BytesIO(data)).resize((1, 1), Image.Resampling.BICUBIC, box=region)
    assert np.abs(got - np.asarray(whole)).max() <= 1
    assert got.max() < 126  # without the white, whose weight is negative, it would be 128


def test_filters_by_hand(encoded):
    """Columns 0, 10, 20, 30 halved. Bilinear: (0.75 x 0 + 0.75 x 10 + 0.25 x 20) / 1.75 = 7.1. Cubic,
    with a = -1/2: weights 0.8672, 0.8672, 0.2266, -0.0703, which give 5.9. Area: the mean of each pair.
    Nearest: the crop's centres 1 and 3 lie on pixels' left borders."""
    columns = np.array([0, 10, 20, 30], np.uint8)[None, :, None]
    data = encoded(np.broadcast_to(columns, (4, 4, 3)).copy(), "PNG")
    expected = {"bilinear": [7, 23], "cubic": [6, 24], "area": [5, 25], "nearest": [10, 30]}
    for interpolation, values in expected.items():
        crop = rescaled_crop(4, 4, scale=2, top=0, left=0, side=2)
        pixels = decode(data, crop._replace(interpolation=interpolation))
        assert pixels[:, :, 0].tolist() == [values, values], interpolation


def test_enlarging_by_area_repeats_pixels(encoded, smooth_image):
    data = encoded(smooth_image(8, 8), "PNG")
    crop = rescaled_crop(8, 8, scale=24, top=0, left=0, side=24)
    pixels = decode(data, crop._replace(interpolation="area"))
    assert np.array_equal(pixels, smooth_image(8, 8).repeat(3, axis=0).repeat(3, axis=1))


def test_no_rescale_is_the_identity(encoded, smooth_image):
    data = encoded(smooth_image(32, 32), "PNG")
    assert np.array_equal(decode_centre(data), smooth_image(32, 32))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_formats_are_recognized_by_content(encoded, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[:, 24:] = (200, 100, 50)
    data = encoded(pixels, kind, **options)
    assert peek(data) == (40, 48)
    got = decode_centre(data)
    assert difference(got, reference(data, centre(data), 32)) == 0
    assert got[5, 30].tolist() == [200, 100, 50]


def test_grey_jpeg_is_repeated(encoded, smooth_image):
    data = encoded(smooth_image(40, 40)[..., 0])
    got = decode_centre(data)
    assert read_header(data).components == 1
    assert np.array_equal(got[..., 0], got[..., 1])
    assert np.array_equal(got[..., 0], got[..., 2])


def test_cmyk_jpeg_becomes_rgb(encoded, smooth_image):
    image = Image.fromarray(smooth_image(40, 40)).convert("CMYK")
    data = encoded(image, quality=95)
    assert read_header(data).components == 4
    got = decode_centre(data)
    rgb = decode_centre(encoded(smooth_image(40, 40), quality=95))
    assert np.abs(got.astype(int) - rgb).mean() < 3


def test_sixteen_bit_grey_is_shifted(encoded):
    wide = np.full((40, 40), 0x80FF, np.uint16)
    assert set(np.unique(decode_centre(encoded(wide, "PNG")))) == {0x80}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_other_modes_are_converted_to_rgb(encoded, smooth_image, mode):
    data = encoded(Image.fromarray(smooth_image(40, 40)).convert(mode), "PNG")
    assert decode_centre(data).shape == (32, 32, 3)


def test_palette_with_transparency_raises_no_warning(encoded, smooth_image):
    image = Image.fromarray(smooth_image(40, 40)).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    assert decode_centre(data).shape == (32, 32, 3)


def test_first_frame_of_an_animation(encoded):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_centre(data)[0, 0].tolist() == [255, 0, 0]


def test_exif_rotation_is_ignored(encoded, smooth_image):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    plain, tagged = (
        encoded(smooth_image(40, 60), quality=95, **options) for options in ({}, {"exif": exif})
    )
    assert len(tagged) > len(plain)
    assert np.array_equal(decode_centre(plain), decode_centre(tagged))
    assert read_header(tagged)[:2] == (40, 60)


def test_stray_bytes_before_a_marker_are_skipped(encoded, smooth_image):
    data = encoded(smooth_image(40, 60))
    (length,) = struct.unpack_from(">H", data, 4)
    stray = data[: 4 + length] + b"\x00\x12\x34" + data[4 + length :]
    assert read_header(stray)[:2] == (40, 60)


def with_size(data, height, width):
    """The JPEG with another size in its frame header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def png_header(height, width):
    data = b"\x89PNG\r\n\x1a\n"
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + crc
    return data


@pytest.mark.parametrize("kept", [3, 100, 0.3, 0.6, 0.95, -3])
def test_truncated_jpeg_is_corrupt_whatever_the_window(encoded, smooth_image, kept):
    data = encoded(smooth_image(90, 90), quality=95)
    truncated = data[: int(kept * len(data)) if 0 < kept < 1 else kept]
    with pytest.raises(CorruptImage, match="truncated JPEG"):
        peek(truncated)
    # The top rows are all there, but the file is not.
    crop = ResizedCrop(90, 90, (0.0, 0.0, 16.0, 16.0), (16, 16), (0, 0, 16, 16))
    with pytest.raises(CorruptImage, match="truncated JPEG"):
        decode(truncated, crop)


def test_errors_of_corrupt_files_give_the_reason(encoded, smooth_image):
    jpeg, png = encoded(smooth_image(90, 90)), encoded(smooth_image(90, 90), "PNG")
    for data, reason in (
        (b"", "is empty"),
        (b"<html>not found</html>", "not a readable JPEG.*3c 68 74 6d"),
        (b"\x00" * 5000, "not a readable JPEG"),
        (png[: len(png) // 2], "broken PNG"),
        (with_size(jpeg, 0, 90), "size of 90 x 0"),
        (with_size(jpeg, 60000, 60000), "60000 x 60000 pixels, over the limit"),
        (png_header(20000, 20000), "decompression bomb"),
        (jpeg[:200] + b"\xff\xd9", "truncated JPEG"),
    ):
        with pytest.raises(CorruptImage, match=reason):
            decode_centre(data)


def test_random_damage_gives_pixels_or_corrupt_image(encoded, smooth_image):
    generator = np.random.default_rng(0)
    kinds = [encoded(smooth_image(60, 50), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    for i in range(200):
        damaged = bytearray(kinds[i % len(kinds)])
        for position in generator.integers(0, min(len(damaged), 700), 6):
            damaged[position] = generator.integers(0, 256)
        try:
            pixels = decode_centre(bytes(damaged))
        except CorruptImage:
            continue
        assert pixels.shape == (32, 32, 3)
