"""Damaged weights files: a sound sample of each format, mutants of it, and what a reader may do with one.

`python -m tests.weights.fuzz SAMPLE SEED COUNT FOLDER` reads COUNT mutants in a process whose memory and
processor time are limited, and prints how many were refused and how many were read, as JSON.
"""

import contextlib
import json
import random
import re
import resource
import sys
import tracemalloc
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.formats import open_weights
from tests.weights import keras_files, matconvnet_files, torch_writer
from tests.weights.caffe_writer import Layer, caffemodel

# An own small array for each shape that a file of weights has: values are their own index.
SHAPES = {"conv1.weight": (4, 3, 3, 5), "conv1.bias": (4,), "fc.weight": (6, 36), "fc.bias": (6,)}
ARRAYS = {
    name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 0.5
    for name, shape in SHAPES.items()
}
# Of Python and the libraries, whatever a file says. A mutant's own size hardly counts beside it.
MEMORY = 16 * 2**20
ADDRESSES, CPU_SECONDS = 2**29, 3000


def _safetensors(folder):
    import safetensors.numpy

    safetensors.numpy.save_file(ARRAYS, folder / "a.safetensors", {"format": "pt"})
    return folder / "a.safetensors"


def _blobs():
    for layer, kind in (("conv1", "Convolution"), ("fc", "InnerProduct")):
        yield Layer(layer, kind, blobs=(ARRAYS[f"{layer}.weight"], ARRAYS[f"{layer}.bias"]))


def _caffemodel(folder, **options):
    path = folder / "a.caffemodel"
    path.write_bytes(caffemodel(list(_blobs()), **options))
    return path


def _onnx(folder):
    """Raw bytes, packed floats, and float16 in a list of integers; a convolution and a product."""
    from onnx import TensorProto, helper, numpy_helper

    tensors = [numpy_helper.from_array(array, name) for name, array in ARRAYS.items()]
    kernel, halves = tensors[0], ARRAYS["fc.bias"].astype(np.float16)
    tensors[0] = helper.make_tensor(
        "conv1.weight", TensorProto.FLOAT, kernel.dims, ARRAYS["conv1.weight"]
    )
    tensors[3] = helper.make_tensor("fc.bias", TensorProto.FLOAT16, [6], halves)
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["map"], strides=[2, 2]),
        helper.make_node("Flatten", ["map"], ["row"]),
        helper.make_node("Gemm", ["row", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 11, 11])
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [], tensors))
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    return folder / "a.onnx"


def _tf_checkpoint(folder, version, suffix=""):
    from jaxcnn.data.tensorflow import load_tensorflow

    v1 = load_tensorflow().compat.v1
    v1.logging.set_verbosity(v1.logging.ERROR)  # version 1 is deprecated
    with v1.Graph().as_default(), v1.Session() as session:
        for name, array in ARRAYS.items():
            v1.get_variable(name, initializer=array)
        session.run(v1.global_variables_initializer())
        prefix = folder / "a.ckpt"
        saver = v1.train.Saver(write_version=version)
        saver.save(session, str(prefix), write_meta_graph=False, write_state=False)
    return prefix.with_name(prefix.name + suffix)


def _pytorch(write):
    def make(folder):
        (folder / "a.pth").write_bytes(write(ARRAYS))
        return folder / "a.pth"

    return make


def _keras(folder, write, name):
    arrays = {name.replace("weight", "kernel").replace(".", "/"): a for name, a in ARRAYS.items()}
    write(folder / name, arrays)
    return folder / name


def _matconvnet(folder, compressed):
    arrays = {k: (ARRAYS[f"{k}.weight"], ARRAYS[f"{k}.bias"]) for k in ("conv1", "fc")}
    variables = matconvnet_files.simple_nn(arrays, np.full((2, 2, 3), 120.5), ["a", "b"])
    matconvnet_files.write(folder / "a.mat", variables, compressed)
    return folder / "a.mat"


def _npz(folder, save):
    save(folder / "a.npz", **ARRAYS, turned=np.asfortranarray(ARRAYS["fc.weight"] + 500))
    return folder / "a.npz"


def _npy(folder):
    layers = {k: [ARRAYS[f"{k}.weight"], ARRAYS[f"{k}.bias"]] for k in ("conv1", "fc")}
    np.save(folder / "a.npy", np.array(layers, object), allow_pickle=True)
    return folder / "a.npy"


# Sample -> (folder) -> the path of a small sound file. A format, a row of FORMATS, has one or several, whose
# names begin with its own. Files that belong to the path lie beside it.
SAMPLES = {
    "safetensors": _safetensors,
    "caffemodel": _caffemodel,
    "caffemodel V1": partial(_caffemodel, v1=True, legacy=True),
    "caffemodel unpacked": partial(_caffemodel, packed=False, double=True),
    "onnx": _onnx,
    "keras_h5 2016": partial(_keras, write=keras_files.write_keras2016, name="a.h5"),
    "keras_h5 weights": partial(_keras, write=keras_files.write_weights_h5, name="a.weights.h5"),
    "keras_zip": partial(_keras, write=keras_files.write_keras, name="a.keras"),
    "matconvnet": partial(_matconvnet, compressed=False),
    "matconvnet compressed": partial(_matconvnet, compressed=True),
    "npy": _npy,
    "npz": partial(_npz, save=np.savez),
    "npz compressed": partial(_npz, save=np.savez_compressed),
    "tf_checkpoint V1": partial(_tf_checkpoint, version=1),
    "tf_checkpoint index": partial(_tf_checkpoint, version=2, suffix=".index"),
    "tf_checkpoint data": partial(_tf_checkpoint, version=2, suffix=".data-00000-of-00001"),
    "pytorch zip": _pytorch(torch_writer.zip_file),
    "pytorch legacy": _pytorch(torch_writer.legacy_file),
}

# Samples every byte of which is under a checksum: no damage is read.
CHECKED = ("tf_checkpoint V1", "tf_checkpoint index", "tf_checkpoint data")


def mutant(data, seed):
    """The bytes of a file after some damage; the same for the same seed."""
    generator = random.Random(seed)
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        generator.choice(_DAMAGES)(changed, generator)
    return bytes(changed)


def _place(data, generator):
    """A position: half of them near the begin or the end, where headers are."""
    near = min(len(data), generator.choice((16, 128, 1024, len(data), len(data), len(data))))
    return generator.choice((generator.randrange(near), len(data) - 1 - generator.randrange(near)))


def _flip(data, generator):
    for _ in range(generator.choice((1, 1, 2, 8))):
        data[_place(data, generator)] ^= 1 << generator.randrange(8)


def _cut(data, generator):
    del data[max(1, _place(data, generator)) :]


def _drop(data, generator):
    start = _place(data, generator)
    del data[max(1, start) : start + generator.choice((1, 2, 7, 64, 500))]


def _repeat(data, generator):
    start = _place(data, generator)
    block = data[start : start + generator.choice((1, 8, 64, 500))]
    data[start:start] = block * generator.choice((1, 1, 5))


def _swap(data, generator):
    size = generator.choice((1, 4, 16, 200))
    a, b = (max(0, min(_place(data, generator), len(data) - size)) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def _fill(data, generator):
    start = _place(data, generator)
    stop = min(len(data), start + generator.choice((1, 4, 8, 64, 500)))
    data[start:stop] = bytes([generator.choice((0, 0, 255))]) * (stop - start)


def _inflate(data, generator):
    """A length that is far too large: binary, of either order, or in decimal digits."""
    size = generator.choice((1, 2, 4, 8))
    value = generator.choice((2 ** (8 * size) - 1, 2 ** (8 * size - 1) - 1, 2 ** (6 * size)))
    start = max(0, min(_place(data, generator), len(data) - size))
    numbers = list(re.finditer(rb"\d+", data)) if generator.random() < 0.4 else []
    if numbers:
        found = generator.choice(numbers)
        data[found.start() : found.end()] = found[0] + b"0" * generator.choice((1, 3, 12))
    else:
        data[start : start + size] = value.to_bytes(size, generator.choice(("little", "big")))


_DAMAGES = (_flip, _flip, _flip, _cut, _drop, _repeat, _swap, _fill, _inflate, _inflate)


class Sample:
    """A sound file and its mutants, which are written in its place.

    Attributes:
        path: the file.
        arrays: what is in it.
    """

    def __init__(self, name, folder):
        with contextlib.suppress(FileError):
            open_weights(
                Path(__file__)
            )  # imports the readers of all formats, before memory is limited
        self.path = SAMPLES[name](folder)
        self._data = self.path.read_bytes()
        self.arrays = {k: t.read() for k, t in open_weights(self.path).tensors.items()}
        self._spans = self._find_spans()

    def _find_spans(self):
        """Name -> where the bytes of an array lie, for those that lie in one piece."""
        spans = {}
        for name, array in self.arrays.items():
            content = np.ascontiguousarray(array).tobytes()
            if len(content) > 8 and self._data.count(content) == 1:
                spans[name] = self._data.index(content)
        return spans

    def read_mutant(self, seed):
        """Reads a mutant; returns whether it was read. An error other than FileError is raised."""
        data = mutant(self._data, seed)
        self.path.write_bytes(data)
        with _memory_within(1.5 * len(data) + MEMORY), warnings.catch_warnings(action="error"):
            try:
                found = open_weights(self.path)
                arrays = {}
                for name, tensor in found.tensors.items():
                    arrays[name] = tensor.read()
                    assert arrays[name].shape == tensor.shape, name
                    assert arrays[name].dtype == tensor.dtype, name
            except FileError:
                return False
        self._check_values(data, arrays)
        return True

    def _check_values(self, data, arrays):
        """Where only bytes of arrays were hit, all else is as before, and so are all other values."""
        expected = bytearray(self._data)
        for name, start in self._spans.items():
            stop = start + self.arrays[name].nbytes
            expected[start:stop] = data[start:stop]
        if data != expected:
            return
        assert arrays.keys() == self.arrays.keys()
        for name, array in self.arrays.items():
            content = array.tobytes()
            if name in self._spans:
                start = self._spans[name]
                content = data[start : start + len(content)]
            assert arrays[name].shape == array.shape, name
            assert arrays[name].dtype == array.dtype, name
            assert arrays[name].tobytes() == content, name


@contextlib.contextmanager
def _memory_within(limit):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"a peak of {peak:,} bytes, allowed are {limit:,.0f}"


def main(arguments):
    name, seed, count, folder = arguments
    sample = Sample(name, Path(folder))
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    used = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, used + ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    read = 0
    for number in range(int(count)):
        try:
            read += sample.read_mutant(f"{seed}-{number}")
        except BaseException:
            print(f"mutant {seed}-{number} of {name}", file=sys.stderr)
            raise
    print(json.dumps({"read": read, "refused": int(count) - read}))


if __name__ == "__main__":
    main(sys.argv[1:])
