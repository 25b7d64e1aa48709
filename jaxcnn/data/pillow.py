"""Images that Pillow decodes: PNG, GIF, BMP, WebP and CMYK JPEGs, to 8-bit RGB."""

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.limits import BUDGET, OUT_OF_MEMORY, check_size

FORMATS = ("PNG", "GIF", "BMP", "WEBP")
# Pillow's copies of an image with transparency, and ours, while it is decoded.
_BYTES_PER_PIXEL = 14


def silence_warnings() -> None:
    """Keeps Pillow's Python warnings from the screen: they name no image, and what matters is an error."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def open_image(data: bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Opens an image, and turns what fails inside into CorruptImage."""
    # Pillow's plugins raise a dozen unrelated types on malformed files.
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        check_size(image.height, image.width)
        yield image
    except CorruptImage:
        raise
    except MemoryError:
        raise CorruptImage(OUT_OF_MEMORY) from None
    except Image.UnidentifiedImageError:
        raise CorruptImage(
            f"not a readable JPEG, PNG, GIF, BMP or WebP image (first bytes: {data[:4].hex(' ')})"
        ) from None
    except Exception as error:
        raise CorruptImage(f"broken {'/'.join(formats)}: {error}") from error


@contextlib.contextmanager
def decoded_image(
    data: bytes, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image | np.ndarray]:
    """Decodes an image to RGB: a Pillow image or uint8[height,width,3]; waits for memory if it is large."""
    with contextlib.ExitStack() as reserved:
        with open_image(data, formats) as image:
            size = image.height * image.width * _BYTES_PER_PIXEL
            reserved.enter_context(BUDGET.reserve(size))
            image.load()
            rgb = _as_rgb(image)
        del image
        yield rgb


def verify_image(data: bytes) -> None:
    """Decodes an image completely and compares a PNG's checksums, which Pillow does not when it decodes.

    Raises:
      CorruptImage: it is damaged, or over a limit.
    """
    with open_image(data) as image:
        image.verify()
    with decoded_image(data):
        pass


def _as_rgb(image: Image.Image) -> Image.Image | np.ndarray:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow's own conversion would clip at 255 instead of shifting.
        wide = np.asarray(image)
        if wide.dtype.itemsize > 2:
            wide = np.clip(wide, 0, 65535)
        grey = np.empty(wide.shape, np.uint8)
        np.right_shift(wide, 8, out=grey, casting="unsafe")
        return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
