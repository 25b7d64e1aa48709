"""A child process that reads hostile images: `python hostile_images.py KIND SEED COUNT` prints JSON.

Its standard error must stay empty, and it must end: by a hang or a crash the parent knows the seed.
"""

import faulthandler
import io
import json
import logging
import random
import resource
import struct
import sys
import zlib

import numpy as np
from PIL import Image

from jaxcnn.data import EvalLoader, Source
from jaxcnn.data.eval_crops import center_crop
from jaxcnn.data.preparation.verify import verify

SIDE = 32


def encode(pixels, kind, mode="RGB", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def whole_images():
    """Encoded images of every format and of most of its forms."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (7, 9, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((131, 97), Image.Resampling.BICUBIC)
    noisy = Image.fromarray(
        np.asarray(smooth) // 2 + generator.integers(0, 99, (97, 131, 3), np.uint8)
    )
    wide = generator.integers(0, 1 << 16, (97, 131)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 900
    frames = {"save_all": True, "append_images": [noisy, smooth.rotate(90)]}
    images = [encode(image, "JPEG", quality=q) for image in (smooth, noisy) for q in (40, 95)]
    images += [
        encode(noisy, "JPEG", mode, progressive=p) for mode in ("L", "CMYK") for p in (False, True)
    ]
    images += [
        encode(noisy, "JPEG", **options)
        for options in (
            {"progressive": True},
            {"restart_marker_blocks": 3},
            {"subsampling": 0, "exif": exif, "icc_profile": bytes(200_000)},
        )
    ]
    images += [encode(noisy, "PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    images += [
        encode(wide, "PNG", ""),
        encode(smooth, "PNG", **frames),
        encode(noisy, "PNG", exif=exif),
    ]
    images += [encode(noisy, "BMP", mode) for mode in ("RGB", "L", "1", "P")]
    images += [encode(smooth, "GIF"), encode(noisy, "GIF", "P", **frames)]
    images += [encode(noisy, "WEBP"), encode(noisy, "WEBP", lossless=True)]
    return [*images, encode(smooth, "WEBP", **frames)]


def mutate(data, others, chance):
    """Damages an encoded image in one of several ways."""
    damaged, length = bytearray(data), len(data)
    at = chance.randrange(length)
    end = min(length, at + chance.choice((1, 4, 64, 1000)))
    way = chance.randrange(9)
    if way == 0:
        for _ in range(chance.choice((1, 2, 20))):
            damaged[chance.randrange(length)] ^= 1 << chance.randrange(8)
    elif way == 1:
        damaged[at:end] = chance.randbytes(end - at)
    elif way == 2:
        del damaged[at:]
    elif way == 3:  # the begin of one image and the end of another
        other = chance.choice(others)
        damaged[at:] = other[chance.randrange(len(other)) :]
    elif way == 4:
        damaged[at:end] = bytes(end - at)
    elif way == 5:  # lies in the header, where sizes and lengths stand
        for _ in range(chance.randrange(1, 5)):
            damaged[chance.randrange(min(length, 700))] = chance.choice((0, 1, 127, 255, at & 255))
    elif way == 6:
        damaged[at:at] = damaged[at:end] * chance.randrange(1, 40)
    elif way == 7:
        damaged = damaged[:at] + damaged[end:]
    else:
        lie_about_size(damaged, chance)
    return bytes(damaged)


def lie_about_size(data, chance):
    """Another width and height, up to the largest that the format can say; a PNG's checksum is made right."""
    sizes = [chance.choice((0, 1, 96, 132, 1000, 9000, 65535)) for _ in range(2)]
    if data[:2] == b"\xff\xd8":
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            if (at := data.find(marker)) >= 0:
                data[at + 5 : at + 9] = struct.pack(">HH", *sizes)
    elif data[:4] == b"\x89PNG":
        data[16:24] = struct.pack(">II", *sizes)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif data[:2] == b"BM":
        data[18:26] = struct.pack("<ii", *sizes)
    elif data[:3] == b"GIF":
        data[6:10] = struct.pack("<HH", *sizes)
    else:
        data[24:30] = struct.pack("<HHH", *sizes, sizes[0])


class Mutated(Source):
    """`count` damaged images; image i of a seed is always the same."""

    class_names = ("one",)

    def __init__(self, seed, count):
        self.seed, self.count, self.whole = seed, count, whole_images()

    def __len__(self):
        return self.count

    def name(self, index):
        return f"seed {self.seed}, image {index}"

    def read(self, index):
        chance = random.Random(f"{self.seed} {index}")
        data = mutate(self.whole[index % len(self.whole)], self.whole, chance)
        if chance.random() < 0.2:
            data = mutate(data, self.whole, chance) if data else data
        return data, 0


def large_png(bits):
    """A PNG of 9999 x 9999 equal pixels, grey or RGBA."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    colour, pixel = (0, b"\x80\xff") if bits == 16 else (6, b"\x80\x40\x20\x10")
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" + pixel * 9999) for _ in range(9999)) + packer.flush()
    header = struct.pack(">IIBBBBB", 9999, 9999, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


class Large(Mutated):
    """The same large images again and again."""

    def __init__(self, seed, count):
        self.seed, self.count, self.whole = seed, count, [large_png(16), large_png(8)]

    def read(self, index):
        return self.whole[index % 2], 0


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def choose(height, width):
    return [center_crop(height, width, SIDE, SIDE)]


def main(kind, seed, count):
    logging.basicConfig(stream=sys.stdout)
    source = {"mutated": Mutated, "large": Large}[kind](int(seed), int(count))
    # What is loaded and compiled once does not count.
    with EvalLoader(Mutated(0, 60), choose, threads=4) as images:
        list(images)
    before, result = peak_mb(), {"images": 0, "corrupt": 0}
    with EvalLoader(source, choose, threads=4) as images:
        for image in images:
            faulthandler.dump_traceback_later(120, exit=True)
            result["images"] += 1
            result["corrupt"] += bool(image.problem)
            if not image.problem:
                (pixels,) = image.pixels.values()
                assert (pixels.shape, pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)
    if kind == "mutated":
        faulthandler.dump_traceback_later(600, exit=True)
        result["damaged"] = len(list(verify(source, threads=4)))
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(result | {"grown_mb": peak_mb() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
