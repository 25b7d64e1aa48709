"""jaxcnn prepare SOURCE --verify: damage that training does not see is listed."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.main import main
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.preparation.verify import DamagedImage, verify, verify_image
from jaxcnn.data.sources.packed_record import PackedImage


def flipped(data, position):
    """The bytes with one bit flipped at a share of the file or at a position."""
    damaged = bytearray(data)
    damaged[int(position * len(data)) if isinstance(position, float) else position] ^= 0x10
    return bytes(damaged)


@pytest.fixture
def images(encoded, smooth_image):
    """(encoded image, the reason why it is damaged or '')."""
    noise = np.random.default_rng(0).integers(0, 90, (90, 80, 3), np.uint8)
    pixels = smooth_image(90, 80) // 2 + noise
    jpeg, png = encoded(pixels, quality=90), encoded(pixels, "PNG")
    cmyk = encoded(Image.fromarray(pixels).convert("CMYK"))
    progressive = encoded(pixels, progressive=True)
    record = PackedImage((2, 2), (2, 2), (0, 0, 2, 2)).header() + bytes(12)
    return [
        (jpeg, ""),
        (jpeg[:-2], ""),
        (progressive, ""),
        (cmyk, ""),
        (png, ""),
        (encoded(pixels, "WEBP"), ""),
        (record, ""),
        (memoryview(record), ""),
        (jpeg[: len(jpeg) // 2], "truncated JPEG"),
        (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "damaged JPEG: Corrupt JPEG data: premature end"),
        (cmyk[: len(cmyk) // 2] + b"\xff\xd9", "damaged JPEG: Corrupt JPEG data: premature end"),
        (jpeg[:-2] + bytes(30) + b"\xff\xd9", "damaged JPEG: Corrupt JPEG data: 2"),
        # Decoded without a fault, and to other pixels: Pillow does not compare the checksum here.
        (flipped(png, len(png) - 12 - 6), "broken PNG file (bad header checksum"),
        (record[:-1], "damaged record"),
        (b"", "the file is empty"),
        (b"no image", "not a readable JPEG"),
    ]


def test_each_kind_of_damage_is_found(images, listed):
    source = listed([(data, 0) for data, _ in images] + [CorruptImage("cannot be read")])
    seen: list[tuple[int, int]] = []
    found = list(verify(source, progress=lambda *counts: seen.append(counts)))
    expected = [*(reason for _, reason in images), "cannot be read"]
    assert seen == [(i + 1, len(expected)) for i in range(len(expected))]
    by_name = {image.name: image.reason for image in found}
    for i, reason in enumerate(expected):
        given = by_name.pop(f"listed#{i}", "")
        assert (reason in given) if reason else not given, (i, reason, given)
    assert not by_name
    assert all(isinstance(image, DamagedImage) for image in found)


def test_a_jpeg_cut_anywhere_and_closed_again_is_found(images):
    data = images[0][0]
    start = data.index(b"\xff\xda") + 14
    for end in np.random.default_rng(0).integers(start, len(data) - 4, 50).tolist():
        with pytest.raises(CorruptImage, match=r"damaged JPEG|broken JPEG"):
            verify_image(data[:end].removesuffix(b"\xff") + b"\xff\xd9")


def test_the_command(image_folder, capsys):
    arguments = ["prepare", f"folder:{image_folder}", "--verify"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("none of 24 images is damaged\n")
    train, val = image_folder / "train" / "bee" / "1.jpg", image_folder / "val" / "cat" / "0.jpg"
    train.write_bytes(train.read_bytes()[:-100] + b"\xff\xd9")
    val.write_bytes(val.read_bytes()[:-100])
    assert main(arguments) == 1
    shown = capsys.readouterr().out.splitlines()
    assert f"{train}: damaged JPEG: Corrupt JPEG data: premature end of data segment" in shown
    assert shown[-1] == "2 of 24 images are damaged; copy them again, or remove them"
    assert main([*arguments, "--json", "--threads=1"]) == 1
    first, second, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["split"], first["image"]) == ("train", str(train))
    assert (second["split"], second["image"]) == ("val", str(val))
    assert second["reason"].startswith("truncated JPEG")
    assert total == {"source": f"folder:{image_folder}", "images": 24, "damaged": 2, "problems": 0}


def test_shards_are_compared_with_their_checksums(image_folder, tmp_path, capsys):
    out = tmp_path / "packed"
    assert (
        main(["prepare", f"folder:{image_folder}", "--pack", f"--out={out}", "--shorter_side=32"])
        == 0
    )
    capsys.readouterr()
    assert main(["prepare", f"packed:{out}", "--verify"]) == 0
    assert capsys.readouterr().out.endswith("none of 24 images is damaged\n")
    shard = out / "val" / "00000.rgb"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1  # a pixel
    shard.write_bytes(data)
    assert main(["prepare", f"packed:{out}", "--verify", "--json"]) == 1
    problem, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert problem["split"] == "val"
    assert str(shard) in problem["problem"]
    assert "SHA-256" in problem["problem"]
    assert (total["damaged"], total["problems"]) == (0, 1)


def test_usage_errors(capsys):
    for arguments, message in (
        (["folder:x", "--verify", "--pack"], "first give jaxcnn prepare folder:x --verify"),
        (["folder:x", "--verify", "--square"], "--square: only with --pack"),
        (["digits", "--threads=2"], "--threads: only with --pack or --verify"),
    ):
        assert main(["prepare", *arguments]) == 2
        assert message in capsys.readouterr().err
