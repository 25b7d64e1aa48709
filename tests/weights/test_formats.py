"""Which format a file is of, and what is said of files of none."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jaxcnn.files import FileError
from jaxcnn.weights.formats import FORMATS, open_weights


def test_the_content_shows_the_format_and_not_the_name(tmp_path):
    path = tmp_path / "weights.caffemodel"
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, path)
    assert open_weights(path).format == "safetensors"
    link = tmp_path / "link.h5"
    link.symlink_to(path)
    assert open_weights(link).tensors["a"].shape == (3,)


def test_functions_of_every_row_exist():
    for row in FORMATS.values():
        assert row.recognises(Path(__file__), b"\x00" * 64) is False, row


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\x00" * 5000, b"\xff" * 5000])
def test_a_file_of_no_format_lists_what_is_read(content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(FileError, match="give one of these: ") as raised:
        open_weights(path)
    assert all(row.title in raised.value.advice for row in FORMATS.values())
    assert ("is empty" in raised.value.problem) == (content == b"")


def test_folders_pipes_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileError, match="is a folder, not a weights file"):
        open_weights(tmp_path)
    with pytest.raises(FileError, match="does not exist"):
        open_weights(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="is not a regular file"):
        open_weights(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError, match="cannot be read"):
        open_weights(tmp_path / "loop")


class Runs:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_pickle_is_named_and_not_run(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(pickle.dumps(Runs(), protocol))
    with pytest.raises(FileError, match=r"is a pickle, .* it was not run"):
        open_weights(Path("a.pkl"))
    assert not Path("made").exists()
