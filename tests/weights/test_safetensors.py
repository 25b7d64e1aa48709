"""safetensors files, with the reference library as the other side."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxcnn.files import FileError
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.safetensors import map_arrays, write_safetensors

ARRAYS = {
    "a/kernel": np.arange(3 * 4 * 16, dtype=np.float32).reshape(3, 4, 16),
    "b": np.arange(5, dtype=np.float32),
    "c": np.arange(32, dtype=np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.float32),
}


def written(path, arrays=ARRAYS, metadata=None):
    shapes = {name: array.shape for name, array in arrays.items()}
    write_safetensors(path, shapes, arrays.__getitem__, metadata or {})
    return path


def test_the_reference_library_reads_what_is_written(tmp_path):
    found = safetensors.numpy.load_file(written(tmp_path / "a.safetensors"))
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array), name


def test_arrays_of_the_reference_library_are_read_row_by_row_and_mapped(tmp_path):
    arrays = {
        **ARRAYS,
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "brain": np.arange(6).reshape(3, 2).astype(ml_dtypes.bfloat16),
        "double": np.arange(4.0),
        "count": np.array(3, np.int64),
    }
    path = tmp_path / "b.safetensors"
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
    file, mapped = open_weights(path), map_arrays(path)
    assert file.format == "safetensors"
    assert file.facts == {}
    for name, array in arrays.items():
        tensor = file.tensors[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        assert np.array_equal(tensor.read(), array), name
        assert np.array_equal(mapped[name], array), name
        if array.size > 1:
            assert np.array_equal(tensor.rows(1, len(array)), array[1:]), name


def test_large_arrays_are_aligned_and_a_transposed_one_keeps_its_values(tmp_path):
    turned = np.arange(12, dtype=np.float32).reshape(3, 4).T
    arrays = {"turned": turned, "c": ARRAYS["c"]}
    mapped = map_arrays(written(tmp_path / "c.safetensors", arrays))
    assert mapped["c"].ctypes.data % 64 == 0
    assert np.array_equal(mapped["turned"], turned)
    assert not mapped["c"].flags.writeable


def test_what_jaxcnn_wrote_about_the_net_is_read_again(tmp_path):
    facts = {"model": {"name": "vgg"}, "mean": [1.0, 2.0, 3.0], "classes": ["a", "b"]}
    text = {name: json.dumps(value) for name, value in facts.items()}
    assert open_weights(written(tmp_path / "d.safetensors", metadata=text)).facts == facts


def header(**rows):
    text = json.dumps(rows).encode()
    return len(text).to_bytes(8, "little") + text


BAD = {
    "past its end": header(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}) + b"x" * 8,
    "bytes after": header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + b"x" * 8,
    "a gap": header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}) + b"x" * 8,
    "overlap": header(
        a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        b={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    )
    + b"x" * 8,
    "wrong size": header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}) + b"x" * 8,
    "negative": header(a={"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}) + b"x" * 8,
    "unknown dtype": header(a={"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}) + b"x" * 8,
    "no offsets": header(a={"dtype": "F32", "shape": [2], "data_offsets": []}) + b"x" * 8,
    "a bomb": header(a={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
    "header too long": (2**39).to_bytes(8, "little") + b"{}          ",
    "not JSON": (8).to_bytes(8, "little") + b"{ x: 1 }",
    "17 axes": header(a={"dtype": "F32", "shape": [1] * 17, "data_offsets": [0, 4]}) + b"x" * 4,
    "no bytes of a huge shape": header(
        a={"dtype": "F32", "shape": [0, 2**59, 2**59], "data_offsets": [0, 0]}
    ),
    "numbers of 4,000 digits": header(
        a={"dtype": "F32", "shape": [10**4000] * 16, "data_offsets": [0, 10**4000]}
    ),
    "shorter than a number": b"\x02\0\0\0\0\0\0\0{",
    "a number as metadata": header(__metadata__={"a": 1}),
    "a list as metadata": header(__metadata__=[]),
    "a list as an array": header(a=[]),
    "lists and lists": header(__metadata__={"a": "[" * 200_001}),
    "a name twice": (21).to_bytes(8, "little") + b'{"a": null,"a": null}',
}


@pytest.mark.parametrize("kind", BAD)
def test_damage_is_an_error_that_names_the_file(kind, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BAD[kind])
    with pytest.raises(FileError, match=r"bad\.safetensors"):
        open_weights(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_written(value, tmp_path):
    array = np.ones((3, 5), np.float32)
    array[1, 2] = value
    with pytest.raises(ValueError, match=r"^a/bias has values that are not finite"):
        written(tmp_path / "e.safetensors", {"b": np.ones(2, np.float32), "a/bias": array})
    assert list(tmp_path.iterdir()) == []
    large = np.full(4, 3e38, np.float32)  # their sum is infinite
    assert np.array_equal(map_arrays(written(tmp_path / "f", {"b": large}))["b"], large)
