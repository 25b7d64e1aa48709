"""PyTorch's files: sound ones, written here byte by byte or by torch, and hostile ones."""

import os
import pickle
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.weights.formats import open_weights
from tests.weights import torch_writer as writer

NUMBERS = np.arange(24, dtype=np.float32)
ARRAYS = {
    "features.0.weight": NUMBERS.reshape(2, 3, 4),
    "half": np.arange(6, dtype=np.float16).reshape(3, 2),
    "double": np.arange(300.0),
    "count": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def opened(folder, content):
    (folder / "weights.pth").write_bytes(content)
    return open_weights(folder / "weights.pth")


def one_tensor(*arguments, kind="FloatStorage", count=24, wrap=writer.filled, location="cpu"):
    """A pickle with one tensor, 'x', on a storage '0'."""
    stored = writer.storage(kind, "0", count, location)
    return writer.BEGIN + wrap([("x", writer.tensor(stored, *arguments))]) + writer.END


def zipped(content, **options):
    return writer.zip_bytes(content, {"0": NUMBERS.tobytes()}, **options)


@pytest.mark.parametrize("write", [writer.zip_file, writer.legacy_file])
def test_arrays_and_their_rows(write, tmp_path):
    file = opened(tmp_path, write(ARRAYS))
    assert file.format == "pytorch"
    assert list(file.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        tensor = file.tensors[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        assert np.array_equal(tensor.read(), array), name
        if array.ndim and len(array):
            assert np.array_equal(tensor.rows(1, len(array)), array[1:]), name


@pytest.mark.parametrize("location", ["cuda:0", "mps", "meta-like"])
def test_the_device_that_saved_a_tensor_does_not_matter(location, tmp_path):
    file = opened(tmp_path, writer.zip_file(ARRAYS, location))
    assert np.array_equal(file.tensors["double"].read(), ARRAYS["double"])


VIEWS = {
    "transposed": ((0, (4, 6), (1, 4)), NUMBERS.reshape(6, 4).T),
    "a part of each row": ((1, (6, 2), (4, 1)), NUMBERS.reshape(6, 4)[:, 1:3]),
    "every second": ((1, (12,), (2,)), NUMBERS[1::2]),
    "the last": ((23, (), ()), NUMBERS[23]),
    "an axis of length one": ((4, (5, 1, 4), (4, 99, 1)), NUMBERS[4:].reshape(5, 1, 4)),
    "three axes turned": ((0, (4, 2, 3), (1, 12, 4)), NUMBERS.reshape(2, 3, 4).transpose(2, 0, 1)),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_views_of_a_storage(kind, tmp_path):
    arguments, expected = VIEWS[kind]
    tensor = opened(tmp_path, zipped(one_tensor(*arguments))).tensors["x"]
    assert np.array_equal(tensor.read(), expected)
    assert tensor.read().flags.c_contiguous
    for start in range(len(expected) if expected.ndim else 0):
        assert np.array_equal(tensor.rows(start, start + 1), expected[start : start + 1])


def test_bfloat16(tmp_path):
    values = np.arange(12).astype(ml_dtypes.bfloat16).reshape(4, 3)
    content = one_tensor(0, (4, 3), (3, 1), kind="BFloat16Storage", count=12)
    tensor = opened(tmp_path, writer.zip_bytes(content, {"0": values.tobytes()})).tensors["x"]
    assert tensor.dtype == values.dtype
    assert np.array_equal(tensor.rows(1, 3), values[1:3])


def test_tensors_share_a_storage_and_a_parameter_is_a_tensor(tmp_path):
    stored = writer.storage("FloatStorage", "0", 24)
    shared = writer.tensor(stored, 12, (12,), (1,))
    parameter = writer.called("torch._utils._rebuild_parameter", shared, b"\x88", b"N")
    both = [("whole", writer.tensor(stored, 0, (24,), (1,))), ("half", parameter)]
    tensors = opened(tmp_path, zipped(writer.BEGIN + writer.filled(both) + b".")).tensors
    assert np.array_equal(tensors["whole"].read(), NUMBERS)
    assert np.array_equal(tensors["half"].read(), NUMBERS[12:])


def test_dicts_and_storages_of_2017(tmp_path):
    """Python 2's OrderedDict is called with pairs; a tensor may lie in a part of a storage."""
    part = writer.several(writer.text("p"), writer.number(4), writer.number(20))
    parts = writer.text("storage"), writer.named("torch.FloatStorage"), writer.text("9")
    stored = writer.several(*parts, writer.text("cpu"), writer.number(24), part) + b"Q"
    rest = writer.number(2), *(writer.several(writer.number(n)) for n in (3, 1))
    tensor = writer.called("torch._utils._rebuild_tensor", stored, *rest)
    pairs = b"](](" + b"U\x01x" + tensor + b"ee"
    content = writer.BEGIN + writer.called("collections.OrderedDict", pairs) + writer.END
    file = opened(tmp_path, writer.legacy_bytes(content, {"9": (24, NUMBERS.tobytes())}))
    assert np.array_equal(file.tensors["x"].read(), NUMBERS[6:9])


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_in_a_checkpoint_of_training(key, tmp_path):
    inner = writer.filled(
        [("x", writer.tensor(writer.storage("FloatStorage", "0", 24), 0, (24,), (1,)))]
    )
    outer = writer.filled([("epoch", b"K\x05"), (key, inner)])
    file = opened(tmp_path, zipped(writer.BEGIN + outer + writer.END))
    assert list(file.tensors) == ["x"]
    assert file.facts == {"inside": key}


@pytest.mark.parametrize(("second", "found"), [("module.b", ["a", "b"]), ("b", ["module.a", "b"])])
def test_the_prefix_of_data_parallel_is_ignored_where_every_name_has_it(second, found, tmp_path):
    tensor = writer.tensor(writer.storage("FloatStorage", "0", 24), 0, (24,), (1,))
    content = writer.filled([("module.a", tensor), (second, tensor)])
    file = opened(tmp_path, zipped(writer.BEGIN + content + writer.END))
    assert list(file.tensors) == found


class Runs:
    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


class VGG:
    """Pickled by its name, like a module of torchvision."""


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_would_run_something_runs_nothing(old, tmp_path):
    content = pickle.dumps({"x": Runs(tmp_path / "made")}, 2)
    with pytest.raises(FileError, match=r"asks for posix\.mkdir, which was not run"):
        opened(tmp_path, writer.legacy_bytes(content, {}) if old else zipped(content))
    assert not (tmp_path / "made").exists()


def test_a_whole_module_is_named_with_what_to_save(tmp_path):
    content = pickle.dumps(VGG(), 2).replace(VGG.__module__.encode(), b"torchvision.models.vgg")
    content = content.replace(b"ccopy_reg\n_reconstructor\n", b"")
    with pytest.raises(FileError, match=r"torchvision\.models\.vgg\.VGG.*model\.state_dict\(\)"):
        opened(tmp_path, zipped(content))


def test_a_torchscript_program_is_refused(tmp_path):
    content = zipped(one_tensor(0, (24,), (1,)), more=[("archive/code/model.py", b"x")])
    with pytest.raises(FileError, match=r"is a program \(TorchScript\)"):
        opened(tmp_path, content)


SOUND = one_tensor(0, (24,), (1,))
HUGE = 2**62
HOSTILE = {
    "an offset past the end": zipped(one_tensor(1, (24,), (1,))),
    "a negative offset": zipped(one_tensor(-1, (4,), (1,))),
    "strides past the end": zipped(one_tensor(0, (4, 6), (7, 1))),
    "a negative stride": zipped(one_tensor(23, (4,), (-1,))),
    "a stride of zero, 4 EB from 4 bytes": zipped(one_tensor(0, (HUGE,), (0,))),
    "more strides than sizes": zipped(one_tensor(0, (4,), (1, 1))),
    "a huge shape": zipped(one_tensor(0, (HUGE, HUGE), (HUGE, 1))),
    "a huge storage": zipped(one_tensor(0, (HUGE,), (1,), count=HUGE)),
    "a storage that is longer than its bytes": zipped(one_tensor(0, (24,), (1,), count=25)),
    "doubles in the bytes of floats": zipped(one_tensor(0, (24,), (1,), kind="DoubleStorage")),
    "an unknown storage": zipped(one_tensor(0, (24,), (1,), kind="QInt8Storage")),
    "no storage": writer.zip_bytes(SOUND, {}),
    "big-endian": zipped(SOUND, byteorder=b"big"),
    "compressed": zipped(SOUND, method=zipfile.ZIP_DEFLATED),
    "a bomb": writer.zip_bytes(
        one_tensor(0, (2**24,), (1,), count=2**24), {"0": bytes(2**26)}, method=zipfile.ZIP_DEFLATED
    ),
    "two pickles": zipped(SOUND, more=[("other/data.pkl", SOUND)]),
    "half": zipped(SOUND)[: len(zipped(SOUND)) // 2],
    "no directory": zipped(SOUND)[:-30],
    "an empty dict": zipped(writer.BEGIN + writer.filled([]) + writer.END),
    "one tensor": zipped(
        writer.BEGIN + writer.tensor(writer.storage("FloatStorage", "0", 24), 0, (24,), (1,)) + b"."
    ),
    "a list": zipped(pickle.dumps([1], 2)),
    "numbers": zipped(pickle.dumps({"x": 1}, 2)),
    "a damaged pickle": zipped(SOUND).replace(b"storage", b"st\xffrage", 1),
    "a call without a storage": zipped(
        writer.BEGIN
        + writer.called("torch._utils._rebuild_tensor_v2", *[b"K\x01"] * 4)
        + writer.END
    ),
    "a storage as a function": zipped(
        writer.BEGIN + writer.called("torch.FloatStorage", b"K\x01") + writer.END
    ),
    "an old file of big-endian": writer.legacy_bytes(SOUND, {"0": (24, bytes(96))}, False),
    "an old file that is cut": writer.legacy_bytes(SOUND, {"0": (24, bytes(96))})[:-1],
    "an old file that goes on": writer.legacy_bytes(SOUND, {"0": (24, bytes(97))}),
    "an old file without storages": writer.legacy_bytes(SOUND, {}),
    "an old file with another count": writer.legacy_bytes(SOUND, {"0": (23, bytes(92))}),
    "an old file with a huge storage": writer.legacy_bytes(
        one_tensor(0, (HUGE,), (1,), count=HUGE), {"0": (HUGE, b"")}
    ),
    "an old file with a storage for nothing": writer.legacy_bytes(
        SOUND, {"0": (24, bytes(96)), "1": (2**60, b"")}
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_little_memory(kind, tmp_path):
    (tmp_path / "bad.pth").write_bytes(HOSTILE[kind])
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=r"bad\.pth"):
            open_weights(tmp_path / "bad.pth")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6


def test_many_dicts_of_one_long_list_are_not_many_long_dicts(tmp_path):
    """Each call of OrderedDict takes the pairs out of its list."""
    pairs = b"".join(b"](" + writer.text(f"k{i}") + b"K\x01e" for i in range(300))
    function = writer.named("collections.OrderedDict") + b"q\x01"
    calls = b"".join(b"h\x01h\x00\x85R" for _ in range(300))
    content = b"\x80\x02](" + pairs + b"eq\x00" + function + b"(" + calls + b"t\x86."
    (tmp_path / "bad.pth").write_bytes(zipped(content))
    tracemalloc.start()
    try:
        with pytest.raises(FileError):
            open_weights(tmp_path / "bad.pth")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_what_torch_writes(old, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = torch.arange(60.0).reshape(3, 4, 5)
    values = {
        "whole": base, "turned": base.permute(2, 0, 1), "part": base[1:, ::2, 1:4], "scalar": base[2, 3, 4],
        "half": base.half(), "brain": base.bfloat16(), "double": base.double(), "count": torch.tensor(3),
        "bytes": base.byte(), "mask": base > 9, "empty": base[:0], "parameter": torch.nn.Parameter(base + 1),
    }  # fmt: skip
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    tensors = open_weights(tmp_path / "a.pt").tensors
    assert tensors.keys() == values.keys()
    for name, value in values.items():
        found, value = tensors[name].read(), value.detach()
        if name == "brain":
            found, value = found.astype(np.float32), value.float()
        assert found.dtype == value.numpy().dtype, name
        assert np.array_equal(found, value.numpy()), name


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_modules_of_torch(old, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layers = (
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )
    model, path = torch.nn.Sequential(*layers), tmp_path / "a.pth"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not old)
    tensors = open_weights(path).tensors
    assert list(tensors) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert np.array_equal(tensors[name].read(), value.numpy()), name
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not old)
    file = open_weights(path)
    assert file.facts == {"inside": "model"}
    assert np.array_equal(file.tensors["0.weight"].read(), layers[0].weight.detach().numpy())
    torch.save(model, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(FileError, match=r"torch\.nn\.modules\.container\.Sequential.*was not run"):
        open_weights(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_of_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)).save(tmp_path / "a.pt")
    with pytest.raises(FileError, match="TorchScript"):
        open_weights(tmp_path / "a.pt")
