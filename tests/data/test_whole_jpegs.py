"""Which JPEGs are whole: those that lack at most their end marker; and what libjpeg says of damaged ones."""

import ctypes
import logging
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from jaxcnn.data import jpeg, limits, native_stderr, tensorflow
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import DecodeTask, decode, decode_many, peek
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.native_stderr import Capture, is_supported
from jaxcnn.data.tensorflow import JpegWindow, decode_strictly
from tests.data.test_decode import decode_centre

KINDS = {
    "baseline": {},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 4},
    "optimized": {"optimize": True, "quality": 30},
}


@pytest.fixture(params=[*KINDS, "grey", "cmyk", "grey progressive"])
def whole(request, encoded, smooth_image):
    noise = np.random.default_rng(0).integers(0, 90, (61, 83, 3), np.uint8)
    image = Image.fromarray(smooth_image(61, 83) // 2 + noise)
    if request.param in KINDS:
        return encoded(image, **KINDS[request.param])
    mode = "CMYK" if request.param == "cmyk" else "L"
    return encoded(image.convert(mode), progressive="progressive" in request.param)


def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(whole):
    for cut in (whole[:-2], whole[:-1]):
        assert peek(cut) == (61, 83)
        assert_array_equal(decode_centre(cut), decode_centre(whole))


def test_a_jpeg_cut_earlier_is_corrupt(whole):
    """Also between two scans of a progressive one, where libjpeg has nothing to complain of."""
    scans = [found.start() for found in re.finditer(rb"\xff[\xda\xc4]", whole)]
    random = np.random.default_rng(1).integers(20, len(whole) - 3, 20).tolist()
    for end in {*range(len(whole) - 6, len(whole) - 2), *scans, *random}:
        with pytest.raises(CorruptImage, match="truncated JPEG"):
            peek(whole[:end])


def strictly(data):
    height, width = peek(data)
    return decode_strictly(JpegWindow(data, (0, 0, height, width)))


def test_complaints_of_libjpeg_are_errors_of_a_strict_decode(whole):
    assert not isinstance(strictly(whole), CorruptImage)
    half = whole[: len(whole) * 3 // 4] + b"\xff\xd9"
    found = strictly(half)
    assert isinstance(found, CorruptImage)
    assert "damaged JPEG: Corrupt JPEG data: premature end" in str(found)


def test_damage_is_decoded_without_a_line_on_the_screen(
    encoded, smooth_image, capfd, caplog, monkeypatch
):
    """Alone, and among others in one call; one line in the log says how to find such files."""
    monkeypatch.setattr(tensorflow, "_WARNED", threading.Lock())
    caplog.set_level(logging.WARNING)
    good = encoded(smooth_image(60, 60))
    damaged = good[: len(good) * 3 // 4] + b"\xff\xd9"
    tables = good.index(b"\xff\xc4") + 5
    broken = good[:tables] + b"\xff" * 16 + good[tables + 16 :]
    cut = good[: len(good) * 3 // 4] + b"\xff\xd9" + good[-9:]
    cmyk = encoded(Image.fromarray(smooth_image(60, 60)).convert("CMYK"))
    cmyk = cmyk[: len(cmyk) * 3 // 4] + b"\xff\xd9"
    crop = ResizedCrop(60, 60, (0.0, 0.0, 60.0, 60.0), (60, 60), (0, 0, 60, 60))
    tasks = [DecodeTask(data, [crop]) for data in (good, damaged, cut, cmyk, broken)]
    decode_many(tasks[:-1])
    for task in tasks:
        (one,) = decode_many([task])
    assert str(one) == "broken JPEG: Bogus Huffman table definition"
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records] == [
        "libjpeg finds damage in some JPEGs, which are used all the same; to list them: jaxcnn prepare "
        "SOURCE --verify"
    ]


def test_only_the_thread_that_captures_loses_its_lines(capfd):
    assert is_supported()
    perror = ctypes.CDLL(None).perror
    with Capture() as first:
        perror(b"mine")
        other = threading.Thread(target=perror, args=(b"another thread's",))
        other.start()
        other.join()
        for _ in range(100):  # more than there is room for
            perror(b"mine")
    perror(b"later")
    with Capture() as second:
        pass
    assert first.text.startswith("mine: ")
    assert second.text == ""
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["another thread's", "later"]


def test_lines_printed_after_python_s_end_do_no_harm():
    code = (
        "import ctypes; from jaxcnn.data import native_stderr; assert native_stderr.is_supported(); "
        "library = ctypes.CDLL(None); library.on_exit(library.perror, None)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_absurd_headers_are_refused_at_once(encoded, smooth_image):
    data = encoded(smooth_image(60, 60), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert peek(data[:-2] + 80 * last + b"\xff\xd9") == (60, 60)
    with pytest.raises(CorruptImage, match="has 110 scans, over the limit of 100 for its 3,600"):
        peek(data[:-2] + 100 * last + b"\xff\xd9")
    with pytest.raises(CorruptImage, match="more than 10,000 segments"):
        peek(data[:2] + 10_001 * b"\xff\xe0\x00\x02" + data[2:])
    assert peek(data[:2] + 9_000_000 * b"\xff" + data[2:]) == (60, 60)  # bytes to fill
    at = data.index(b"\xff\xc2") + 5
    large = data[:at] + (4000).to_bytes(2, "big") * 2 + data[at + 4 : -2] + 20 * last + b"\xff\xd9"
    with pytest.raises(CorruptImage, match="has 30 scans, over the limit of 20 for its 16,000,000"):
        peek(large)


def test_scans_after_the_end_marker_do_not_count(encoded, smooth_image):
    """Phones append other images and films."""
    data = encoded(smooth_image(60, 60), progressive=True)
    more = data + 200 * b"\xff\xda\x00\x08"
    assert peek(more) == (60, 60)
    assert_array_equal(decode_centre(more), decode_centre(data))


def test_a_cut_jpeg_is_corrupt_where_complaints_cannot_be_read(whole, monkeypatch):
    monkeypatch.setattr(native_stderr, "is_supported", lambda: False)
    for end in (len(whole) - 2, len(whole) * 3 // 4):
        with pytest.raises(CorruptImage, match="truncated JPEG"):
            peek(whole[:end])


def test_a_sequential_jpeg_of_many_scans_is_refused_too(encoded, smooth_image):
    """One component a scan; the scan of the first is repeated."""
    data = encoded(smooth_image(60, 60)[..., 0])
    start = data.index(b"\xff\xda")
    scan = data[start:-2]
    frame = data.index(b"\xff\xc0")
    three = b"\xff\xc0\x00\x11\x08\x00\x3c\x00\x3c\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
    length = 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
    data = data[:frame] + three + data[frame + length : start]
    others = [scan[:5] + bytes([k]) + scan[6:] for k in (2, 3)]
    whole = data + scan + b"".join(others) + b"\xff\xd9"
    assert jpeg.read_header(whole).whole_in_memory
    assert_array_equal(decode_centre(whole[:-2]), decode_centre(whole))
    with pytest.raises(CorruptImage, match="a part before it is missing"):
        peek(data + scan + others[0])
    with pytest.raises(CorruptImage, match="has 103 scans"):
        peek(data + 101 * scan + b"".join(others) + b"\xff\xd9")


def test_no_memory_for_one_image_is_that_image_s(encoded, smooth_image, monkeypatch):
    good, png = encoded(smooth_image(60, 60)), encoded(smooth_image(60, 60), "PNG")
    crop = ResizedCrop(60, 60, (0.0, 0.0, 60.0, 60.0), (30, 30), (0, 0, 30, 30))

    def fail(*_):
        raise MemoryError

    for place, name in (
        (tensorflow, "_decode_op"),
        (Image.Image, "load"),
        (limits.CorruptImage, "never"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail, raising=False)
            found = decode_many([DecodeTask(data, [crop]) for data in (good, png)])
            failed = [str(one) for one in found if isinstance(one, CorruptImage)]
            assert failed == ["not enough memory to decode it"] * (name != "never")


def test_bytes_over_the_limit_are_refused_whatever_the_source(encoded, smooth_image, monkeypatch):
    data = encoded(smooth_image(60, 60))
    monkeypatch.setattr(limits, "MAX_BYTES", len(data))
    size = peek(data)
    crop = ResizedCrop(*size, (0.0, 0.0, 60.0, 60.0), (60, 60), (0, 0, 60, 60))
    for kind in (data, memoryview(data)):
        assert decode(kind, crop).shape == (60, 60, 3)
    for call in (peek, lambda data: decode(data, crop)):
        with pytest.raises(CorruptImage, match="over the limit of"):
            call(data + b"x")


def test_large_images_wait_for_memory_in_turn():
    """Three threads take turns with images of any size; the sum stays below the limit, or one is alone."""
    budget = limits.DecodeBudget(limit=100, small=10)
    used, seen, lock = [], [], threading.Lock()

    def work(sizes):
        for size in sizes:
            with budget.reserve(size):
                with lock:
                    used.append(size)
                    seen.append(list(used))
                with lock:
                    used.remove(size)

    sizes = np.random.default_rng(0).choice([5, 30, 60, 99, 250], (3, 300)).tolist()
    threads = [threading.Thread(target=work, args=(some,)) for some in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    large = [[size for size in state if size >= 10] for state in seen]
    assert all(sum(state) <= 100 or len(state) == 1 for state in large)
    with budget.reserve(250):
        pass  # all was given back


def test_a_failed_decode_gives_its_memory_back(encoded, smooth_image, monkeypatch):
    budget = limits.DecodeBudget(limit=100, small=1)
    monkeypatch.setattr(jpeg, "BUDGET", budget)
    good = encoded(smooth_image(60, 60))
    crop = ResizedCrop(60, 60, (0.0, 0.0, 60.0, 60.0), (30, 30), (0, 0, 30, 30))
    monkeypatch.setattr("jaxcnn.data.decode._resize_all", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decode_many([DecodeTask(good, [crop]), DecodeTask(good, [crop])])
    assert budget._used == 0
