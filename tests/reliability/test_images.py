"""Hostile images, read by child processes: each is an image or a corrupt one; nothing crashes, hangs, prints
or takes more memory than it may. And how much damage inside real JPEGs `prepare --verify` finds."""

import collections
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxcnn.data import jpeg
from jaxcnn.data.decode import peek
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.preparation.verify import verify_image
from jaxcnn.data.tensorflow import JpegWindow, decode_jpegs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared" / "data" / "imagenet_200.tar"


def read_hostile_images(kind, seed, count):
    """What a child process counts while it reads them; its exit code is 0 and it prints no error."""
    program = Path(__file__).with_name("hostile_images.py")
    command = [sys.executable, str(program), kind, str(seed), str(count)]
    done = subprocess.run(
        command, cwd=ROOT, env=None, capture_output=True, text=True, timeout=3000, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{kind}, seed {seed}: {done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_images_of_all_formats(seed):
    found = read_hostile_images("mutated", seed, 5000)
    print(found)
    assert found["images"] == 5000
    # Some mutations leave an image whole, and damage of some others only a verification finds.
    assert 2000 < found["corrupt"] < found["damaged"] < 4500
    assert found["grown_mb"] < 1600


def test_threads_take_turns_with_large_images():
    """PNGs of 9999 x 9999 pixels, of 16 bits and with transparency, by four threads."""
    found = read_hostile_images("large", 0, 12)
    print(found)
    assert (found["images"], found["corrupt"]) == (12, 0)
    assert found["grown_mb"] < 1400


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs the real images of {ARCHIVE}")
def test_share_of_damage_inside_the_scan_that_a_verification_finds(capfd):
    """One bit flipped in the scan, 900 times. Each number is of libjpeg-turbo 3's decoder."""
    with tarfile.open(ARCHIVE) as tar:
        files = [tar.extractfile(member).read() for member in tar if member.isfile()]
    images = [data for data in files if data[:2] == b"\xff\xd8"]
    images = [data for data in images if jpeg.read_header(data).components != 4]
    for data in images:
        verify_image(data)  # a sound file is not reported
    generator, counts = np.random.default_rng(0), collections.Counter()
    for i in range(900):
        data = images[i % len(images)]
        header = jpeg.read_header(data)
        window = JpegWindow(data, (0, 0, header.height, header.width))
        flipped = bytearray(data)
        at = int(generator.integers(header.first_scan + 14, len(data) - 2))
        flipped[at] ^= 1 << int(generator.integers(8))
        flipped = bytes(flipped)
        (whole,), (damaged,) = decode_jpegs([window]), decode_jpegs([window._replace(data=flipped)])
        try:
            peek(flipped)
            verify_image(flipped)
            seen = "missed"
        except CorruptImage:
            seen = "found"
        if isinstance(damaged, CorruptImage):
            assert seen == "found"
            counts["refused in training"] += 1
            continue
        far = np.abs(damaged.astype(int) - whole).max(-1) > 8
        counts[seen, "over 1 % of the image" if far.mean() > 0.01 else far.any()] += 1
    captured = capfd.readouterr()
    assert "JPEG data" not in captured.err
    print(dict(counts))
    large = [counts[seen, "over 1 % of the image"] for seen in ("found", "missed")]
    assert large[0] >= 0.45 * sum(large)
