"""Narrow nets, and images of given sizes as a source: shared by the tests of evaluation.

Nets and their compiled programs are cached: the tests of a session compile each shape once.
"""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcnn.evaluation import Forward, evaluate
from jaxcnn.models import build
from jaxcnn.parallel import make_placement
from tests.models.narrow import cache_by_modules

CLASSES = 5
MEAN = np.array([120.0, 110.0, 100.0], np.float32)
# AlexNet needs 64 pixels.
NETS = {
    "alexnet": {"image_size": 72, "width": 0.1},
    "vgg": {"image_size": 32, "width": 0.07, "column": "A"},
    "googlenet": {"image_size": 32, "width": 0.1},
}
# One protocol of each kind for a net of 32 pixels. All share two scales, so that shapes compile once.
SMALL = [
    "centre",
    "ten_crops",
    "dense scales=(32,)",
    "dense scales=(32,40) flip=False",
    "multi_crop",
    "multi_crop_dense scales=(32,40)",
    "crops_144",
]


@cache_by_modules
def _net_and_params(name, fields, seed=7):
    net = build(name, num_classes=CLASSES, **NETS[name] | dict(fields))
    images = jnp.zeros((1, net.image_size, net.image_size, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        last = path[0].key in ("fc8", "fc")
        inputs = max(1, np.prod(leaf.shape[:-1]))
        gain = 0.04 if last else 1.5
        return jnp.asarray(rng.normal(0, gain / np.sqrt(inputs), leaf.shape), jnp.float32)

    return net, jax.tree_util.tree_map_with_path(draw, shapes)


def net_and_params(name, **fields):
    """Weights whose posteriors are far from uniform, but do not depend on a single grey level."""
    return _net_and_params(name, tuple(sorted(fields.items())))


def quick_compiler(_, lowered):
    """Programs that run once or twice are not worth optimising."""
    return lowered.compile({"xla_backend_optimization_level": 0})


def forward_of(net, mean=MEAN, batch_size=8, devices=1):
    return Forward(net, mean, make_placement(data=devices), batch_size, quick_compiler)


@cache_by_modules
def _shared_forward(name, fields, mean, shape, batch_size, devices):
    net, params = _net_and_params(name, fields)
    mean = np.frombuffer(mean, np.float32).reshape(shape)
    forward = forward_of(net, mean, batch_size, devices)
    return forward, forward.placement.put_replicated(params)


def shared_forward(name, *, mean=MEAN, batch_size=8, devices=1, seed=7, **fields):
    """(forward, params on its devices) of a narrow net; `seed` draws the params."""
    fields = tuple(sorted(fields.items()))
    key = (name, fields, mean.tobytes(), mean.shape, batch_size, devices)
    forward, params = _shared_forward(*key)
    if seed != 7:
        params = forward.placement.put_replicated(_net_and_params(name, fields, seed)[1])
    return forward, params


def evaluate_small(name, source, protocol, **options):
    """The evaluation of a narrow net, posteriors kept. `options` as for `shared_forward`."""
    forward, params = shared_forward(name, **options)
    return evaluate(forward, params, source, protocol, split="val", keep=True, threads=2)


def pixels_of(height, width, seed=0):
    coarse = np.random.default_rng([seed, height, width]).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Images:
    """PNGs, which decode exactly, of the given (height, width); labels repeat 0 to 4."""

    class_names = tuple("abcde")

    def __init__(self, sizes, broken=()):
        self.pixels = [pixels_of(*size, seed=i) for i, size in enumerate(sizes)]
        self.broken = broken
        self.ids = np.arange(len(sizes)) + 10

    def __len__(self):
        return len(self.pixels)

    def read(self, index):
        if index in self.broken:
            return b"no image", index % CLASSES
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(buffer, "PNG")
        return buffer.getvalue(), index % CLASSES

    def name(self, index):
        return f"image {index}"
