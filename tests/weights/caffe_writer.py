"""Writes Caffe's files: the text of a net (prototxt) and its weights (caffemodel), V1 and new."""

import dataclasses
import math
import struct

import numpy as np

VARINT, BYTES, FIXED32 = 0, 2, 5
# Types of V1 layers: (in the text, number in the binary file).
V1_TYPES = {
    "Convolution": ("CONVOLUTION", 4), "InnerProduct": ("INNER_PRODUCT", 14), "ReLU": ("RELU", 18),
    "Pooling": ("POOLING", 17), "LRN": ("LRN", 15), "Dropout": ("DROPOUT", 6), "Concat": ("CONCAT", 3),
    "Softmax": ("SOFTMAX", 20), "Data": ("DATA", 5),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer; `settings` is the text of its parameters, 'convolution_param { kernel_size: 3 }'."""

    name: str
    kind: str
    bottom: tuple[str, ...] = ()
    top: str = ""
    settings: str = ""
    blobs: tuple[np.ndarray, ...] = ()


def varint(value):
    value &= 2**64 - 1
    content = b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])


def field(number, content):
    """A field of a message: a number, a text, or bytes."""
    if isinstance(content, int):
        return varint(number << 3 | VARINT) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def blob(array, legacy=False, packed=True, double=False):
    """A BlobProto. Files before Caffe's N-dimensional blobs pad every shape to four axes."""
    shape = array.shape
    if legacy:
        shape = (1,) * (4 - array.ndim) + shape
        content = b"".join(field(i, n) for i, n in enumerate(shape, start=1))
    else:
        content = field(7, field(1, b"".join(map(varint, shape))))
    stored = np.ascontiguousarray(array, "<f8" if double else "<f4")
    if packed:
        return content + field(8 if double else 5, stored.tobytes())
    tag = varint(8 << 3 | 1 if double else 5 << 3 | FIXED32)
    return content + b"".join(tag + value.tobytes() for value in stored.ravel())


def caffemodel(layers, name="net", v1=False, **options):
    """A NetParameter."""
    content = field(1, name)
    for layer in layers:
        blobs = [blob(b, **options) for b in layer.blobs]
        if v1:
            parts = [field(2, b) for b in layer.bottom] + [field(3, layer.top)] * bool(layer.top)
            parts += [field(4, layer.name), field(5, V1_TYPES[layer.kind][1])]
            parts += [field(6, b) for b in blobs]
        else:
            parts = [field(1, layer.name), field(2, layer.kind)]
            parts += [field(3, b) for b in layer.bottom] + [field(4, layer.top)] * bool(layer.top)
            parts += [field(7, b) for b in blobs]
        content += field(2 if v1 else 100, b"".join(parts))
    return content


def prototxt(layers, side, name="net", v1=False):
    """The text of a net that reads images of `side` pixels."""
    lines = [f'name: "{name}"', 'input: "data"']
    lines += [f"input_dim: {size}" for size in (1, 3, side, side)]
    for layer in layers:
        kind = V1_TYPES[layer.kind][0] if v1 else f'"{layer.kind}"'
        bottoms = " ".join(f'bottom: "{b}"' for b in layer.bottom)
        lines.append(
            f'{"layers" if v1 else "layer"} {{ name: "{layer.name}" type: {kind} {bottoms} '
            f'top: "{layer.top}" {layer.settings} }}'
        )
    return "\n".join(lines) + "\n"


def binaryproto(image):
    """A mean image as Caffe's compute_image_mean writes it; `image` is (3, H, W)."""
    return blob(image[None], legacy=True)


class Chain:
    """Builds a net layer by layer; each reads the last one's output unless `bottom` says otherwise."""

    def __init__(self, blobs):
        """`blobs`: Caffe's name of a layer -> its weights and biases."""
        self.layers, self._blobs, self.last = [], blobs, "data"

    def add(self, name, kind, settings="", bottom=None, in_place=False):
        bottom = (self.last,) if bottom is None else bottom
        top = bottom[0] if in_place else name
        self.layers.append(Layer(name, kind, bottom, top, settings, self._blobs.get(name, ())))
        self.last = top

    def conv(self, name, stride=1, pad=0, group=1, bottom=None):
        kernel = self._blobs[name][0]
        self.add(
            name,
            "Convolution",
            f"convolution_param {{ num_output: {kernel.shape[0]} kernel_size: {kernel.shape[2]} "
            f"stride: {stride} pad: {pad} group: {group} }}",
            bottom,
        )
        self.add(f"relu_{name}", "ReLU", in_place=True)

    def pool(self, name, size, stride, pad=0, how="MAX", bottom=None):
        text = f"pooling_param {{ pool: {how} kernel_size: {size} stride: {stride} pad: {pad} }}"
        self.add(name, "Pooling", text, bottom)

    def lrn(self, name):
        self.add(name, "LRN", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def full(self, name, last=False):
        text = f"inner_product_param {{ num_output: {len(self._blobs[name][0])} }}"
        self.add(name, "InnerProduct", text)
        if not last:
            self.add(f"relu_{name}", "ReLU", in_place=True)
            self.add(
                f"drop_{name}", "Dropout", "dropout_param { dropout_ratio: 0.5 }", in_place=True
            )


def values(*shape):
    """An array whose values are their own index."""
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def raw_float(number, value):
    """An unpacked float field."""
    return varint(number << 3 | FIXED32) + struct.pack("<f", value)
