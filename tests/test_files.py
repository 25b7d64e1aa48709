"""jaxcnn's own files: a damage is an error that names the file; an OSError of writing says what to do."""

import errno
import numbers
import os
import socket

import numpy as np
import pytest

from jaxcnn import files, folders
from jaxcnn.files import FileError, WriteError

ROWS = {
    "rows": [{"step": int, "loss": numbers.Real, "rate?": float}],
    "best?": (None, {"step": int}),
}
RIGHT = '{"rows": [{"step": 3, "loss": NaN, "more": [1]}], "best": null}'
DAMAGED = {
    "empty": ("", "is empty"),
    "only spaces": (" \n", "is empty"),
    "zeros": ("\0" * 8, "has zero bytes"),
    "not UTF-8": (b'{"rows": "\xff"}', "is not UTF-8 (byte 10)"),
    "cut": (RIGHT[:20], "is cut short"),
    "cut in a word": ('{"ro', "is cut short"),
    "another format": ("rows: 3", "is not JSON"),
    "two values": ("{} {}", "is not JSON"),
    "200,000 brackets": ("[" * 200_000, "is nested too deeply"),
    "60 brackets": ("[" * 60 + "]" * 60, "is nested too deeply"),
    "a list": ("[]", "it must be an object, found []"),
    "a key is missing": ("{}", "rows is missing"),
    "a key twice": ('{"rows": [], "rows": []}', "'rows' is there twice"),
    "an inner key": ('{"rows": [{"step": 3}]}', "rows[0].loss is missing"),
    "text": ('{"rows": "x"}', "rows must be a list, found 'x'"),
    "a fraction": ('{"rows": [{"step": 1.5, "loss": 0}]}', "rows[0].step must be a whole number"),
    "true": ('{"rows": [{"step": true, "loss": 0}]}', "must be a whole number, found True"),
    "NaN": ('{"rows": [{"step": 1, "loss": 0, "rate": NaN}]}', "rate must be a finite number"),
    "1e999": ('{"rows": [{"step": 1, "loss": 0, "rate": 1e999}]}', "rate must be a finite number"),
    "a huge number": ('{"rows": [{"step": %s, "loss": 0}]}' % ("9" * 50), "must be a whole number"),
    "400 digits": ('{"rows": [{"step": %s, "loss": 0}]}' % ("9" * 400), "must be a whole number"),
    "5,000 digits": ("9" * 5000, "is not valid: Exceeds the limit"),
    "an alternative": ('{"rows": [], "best": 3}', "best must be an object, found 3"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_json_is_an_error_that_names_the_file_and_the_damage(tmp_path, name):
    content, problem = DAMAGED[name]
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError) as caught:
        files.read_json(path, ROWS, advice="copy it again")
    text = str(caught.value)
    assert text.startswith(f"{path} ")
    assert problem in text
    assert text.endswith("; copy it again")


def test_json_of_the_expected_shape_is_read(tmp_path):
    files.write_text(tmp_path / "x.json", RIGHT)
    found = files.read_json(tmp_path / "x.json", ROWS, advice="")
    assert found["rows"][0]["step"] == 3
    assert found["best"] is None


def test_what_is_not_a_regular_file_is_not_opened_for_ever(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # the path of a socket is short
        listener.bind("socket")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    for name in ("fifo", "link", "folder", "socket", "sparse", "none", "/dev/zero"):
        with pytest.raises(FileError, match=name):
            files.read_text(tmp_path / name, advice="move it away")


def test_lines_are_split_at_line_feeds_only(tmp_path):
    path, lines = tmp_path / "classes.txt", ("a\x85b", "c\rd", "e\x1cf", "ﬁ")
    files.write_text(path, "".join(f"{line}\n" for line in lines))
    assert files.read_lines(path, advice="") == lines
    for content, problem in (("", "is empty"), ("a\nb", "is cut short")):
        path.write_text(content)
        with pytest.raises(FileError, match=problem):
            files.read_lines(path, advice="")


ARRAYS = {
    "ids": (np.integer, "n"),
    "values": ((np.float16, np.float32), "n", 2),
    "name": (np.str_,),
    "mean?": (np.float64,),
}
ZEROS = {"ids": np.zeros(3, int), "values": np.zeros((3, 2), np.float16), "name": np.array("x")}


def test_arrays_of_the_expected_shapes_are_read(tmp_path):
    files.write_arrays(tmp_path / "new" / "x.npz", **ZEROS, other=np.zeros(1))
    assert {*files.read_arrays(tmp_path / "new" / "x.npz", ARRAYS, advice="")} == {*ZEROS}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"values": np.zeros((4, 2), np.float16)}, r"values must be float16 or float32\[3, 2\]"),
        ({"values": np.zeros((3, 2))}, "found float64"),
        ({"name": np.zeros(1)}, r"name must be str_\[\], found float64\[1\]"),
        ({"mean": np.zeros(3)}, r"mean must be float64\[\], found float64\[3\]"),
        ({"ids": np.array([{}] * 3)}, "not a readable .npz file"),
    ],
)
def test_other_arrays_are_an_error(tmp_path, change, problem):
    np.savez(tmp_path / "x.npz", **{**ZEROS, **change})
    with pytest.raises(FileError, match=problem):
        files.read_arrays(tmp_path / "x.npz", ARRAYS, advice="")


def test_a_damaged_npz_is_an_error_or_reads_the_same(tmp_path):
    path, random, errors = tmp_path / "x.npz", np.random.default_rng(0), 0
    files.write_arrays(path, **ZEROS)
    whole = path.read_bytes()
    for position in random.integers(0, len(whole), 100):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            found = files.read_arrays(path, ARRAYS, advice="")
        except FileError:
            errors += 1
        else:
            assert all(np.array_equal(found[name], ZEROS[name]) for name in ZEROS)
    assert errors > 50
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="not a readable"):
            files.read_arrays(path, ARRAYS, advice="")


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE]
)
@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_an_error_of_writing_names_the_file_and_keeps_the_old_one(
    tmp_path, monkeypatch, number, call
):
    path = tmp_path / "x.json"
    path.write_text("before")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WriteError) as caught:
        files.write_text(path, "after")
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be written ({os.strerror(number)}); ")
    assert ("full" in text) == (number == errno.ENOSPC)
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_damaged_files_set_aside_do_not_replace_each_other(tmp_path):
    path = tmp_path / "x.json"
    for content, name in (("1", "x.json.damaged"), ("2", "x.json.damaged-2")):
        path.write_text(content)
        assert files.set_aside(path) == tmp_path / name
        assert not path.exists()
        assert (tmp_path / name).read_text() == content


def test_an_output_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "new" / "out"
    with folders.atomic_output(out) as made:
        made.mkdir()
        (made / "a").write_text("x")
        assert not out.exists()
    assert [file.name for file in (tmp_path / "new").rglob("*")] == ["out", "a"]
    with pytest.raises(FileExistsError, match="exists, and nothing is overwritten"):
        folders.atomic_output(out).__enter__()


def test_an_output_that_fails_leaves_nothing_and_is_named(tmp_path):
    full = WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file in it")

    def fail(error):
        with folders.atomic_output(tmp_path / "out") as made:
            made.write_text("x")
            raise error

    with pytest.raises(KeyError):
        fail(KeyError())
    with pytest.raises(WriteError, match=f"^{tmp_path}/out cannot be written .*disk is full"):
        fail(full)
    assert list(tmp_path.iterdir()) == []
