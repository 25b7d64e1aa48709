"""What is opened as an image: regular files of a sensible size, and nothing that blocks."""

import os
import socket

import numpy as np
import pytest

from jaxcnn.data import limits, preprocess
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.eval_crops import center_crop
from jaxcnn.data.eval_loader import EvalLoader
from jaxcnn.data.limits import MAX_BYTES
from jaxcnn.data.regular_file import read_regular_file
from jaxcnn.data.sources.folder import ImageFiles


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """{file name: the reason that it gives}. A link to each behaves like it."""
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 characters
    os.mkfifo("fifo.jpg")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.jpg")
    os.symlink("/dev/zero", "zero.jpg")
    os.symlink("/dev/tty", "tty.jpg")
    os.mkdir("folder.jpg")
    with open("sparse.jpg", "wb") as file:
        file.truncate(40 << 30)
    with open("header.jpg", "wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(4 << 30)
    reasons = {
        "fifo.jpg": "a FIFO, not a regular file",
        "socket.jpg": "a socket or a device, not a regular file",
        "zero.jpg": "a device, not a regular file",
        "tty.jpg": "a device, not a regular file",
        "folder.jpg": "a folder, not a regular file",
        "sparse.jpg": "42,949,672,960 bytes or more, over the limit",
        "header.jpg": "4,294,967,296 bytes or more, over the limit",
        "/proc/self/status": "not a readable JPEG",  # its size is 0
    }
    for name in list(reasons):
        link = f"link-{os.path.basename(name)}"
        os.symlink(name, link)
        reasons[link] = reasons[name]
    os.symlink("nowhere", "dangling.jpg")
    os.symlink("loop.jpg", "loop.jpg")
    open("empty.jpg", "wb").close()
    return reasons | {
        "dangling.jpg": "No such file",
        "loop.jpg": "Too many levels of symbolic links",
        "empty.jpg": "the file is empty",
    }


def test_what_is_not_an_image_file_is_one_corrupt_image(hostile, encoded, smooth_image):
    good = encoded(smooth_image(40, 40))
    with open("good.jpg", "wb") as file:
        file.write(good)
    names = [*hostile, "good.jpg"]
    with EvalLoader(ImageFiles(names), lambda h, w: [center_crop(h, w, 32, 32)]) as images:
        problems = [image.problem for image in images]
    for name, problem in zip(names[:-1], problems, strict=False):
        assert hostile[name] in problem, name
    assert problems[-1] == ""
    for name, reason in hostile.items():
        with pytest.raises(DataError, match=f"the image {name}: .*{reason}"):
            preprocess(name, scale=32, image_size=32)
    assert preprocess("good.jpg", scale=32, image_size=32).shape == (1, 32, 32, 3)


def test_the_bytes_are_those_of_the_file(tmp_path):
    path = tmp_path / "file"
    for size in (0, 1, 5000, (3 << 20) + 1):
        data = np.random.default_rng(size).bytes(size)
        path.write_bytes(data)
        assert read_regular_file(path) == data
    assert read_regular_file("/proc/self/cmdline")


def test_a_file_whose_size_changes_while_it_is_read(tmp_path, monkeypatch):
    """Longer: its new end is read too. Shorter: it is corrupt. Without end: reading stops at the limit."""
    path, real = tmp_path / "file", os.fstat
    path.write_bytes(b"x" * 5000)

    def seen(change):
        def fstat(file):
            return os.stat_result((*real(file)[:6], 5000 + change, *real(file)[7:10]))

        monkeypatch.setattr(os, "fstat", fstat)

    seen(-2000)
    assert read_regular_file(path) == b"x" * 5000
    seen(+2000)
    with pytest.raises(CorruptImage, match="shorter while it was read: 5,000 of 7,000 bytes"):
        read_regular_file(path)
    seen(-2000)
    monkeypatch.setattr(limits, "MAX_BYTES", 4000)
    with pytest.raises(CorruptImage, match="5,000 bytes or more, over the limit of 4,000"):
        read_regular_file(path)


def test_the_largest_file(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(CorruptImage, match="268,435,457 bytes or more, over the limit"):
        read_regular_file(path)


def test_no_memory_for_one_file_is_that_image_s(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def read(*_):
        raise MemoryError

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(CorruptImage, match="not enough memory to read it"):
        read_regular_file(path)


def test_descriptors_are_closed(hostile):
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for name in hostile:
        try:
            read_regular_file(name)
        except (CorruptImage, OSError):
            continue
    assert count() == before
