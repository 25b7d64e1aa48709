import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.main import main
from jaxcnn.data import DataError
from jaxcnn.data.preparation.cifar10_subset import load_batch


def make_batch(first, count=20):
    """Flat-coloured images; the label of image i is i % 10."""
    values = np.arange(first, first + count, dtype=np.uint8)
    data = np.repeat(values[:, None], 3072, axis=1)
    return {b"data": data, b"labels": [i % 10 for i in range(count)], b"batch_label": b"some"}


@pytest.fixture
def batches(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for k, name in enumerate(names):
        (folder / name).write_bytes(pickle.dumps(make_batch(20 * k), protocol=4))
    return folder


@pytest.fixture
def listed(tmp_path):
    names = ["train/airplane/0000.jpg", "train/airplane/0003.jpg", "val/truck/0001.jpg"]
    path = tmp_path / "LIST"
    path.write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
    return path


def grey(path):
    return int(np.asarray(Image.open(path))[16, 16, 0])


@pytest.mark.parametrize("packed", [False, True])
def test_build_from_batches(batches, listed, tmp_path, capsys, packed):
    source = batches
    if packed:
        source = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(source, "w:gz") as tar:
            tar.add(batches, "cifar-10-batches-py")
    out = tmp_path / "out"
    assert (
        main(["prepare", "cifar10_subset", str(out), f"--source={source}", f"--list={listed}"]) == 0
    )
    # The fourth airplane is the second of data_batch_2: value 20 + 10.
    assert grey(out / "train" / "airplane" / "0000.jpg") == 0
    assert grey(out / "train" / "airplane" / "0003.jpg") == 30
    assert grey(out / "val" / "truck" / "0001.jpg") == 119
    assert sum(len(files) for _, _, files in os.walk(out)) == 3
    assert "3 files written" in (said := capsys.readouterr().out)
    assert "0 of them bit for bit as listed" in said


def test_build_from_the_jpegs_is_bit_for_bit(batches, listed, tmp_path, capsys):
    whole, copy, again = tmp_path / "whole", tmp_path / "copy", tmp_path / "again"
    assert (
        main(["prepare", "cifar10_subset", str(whole), f"--source={batches}", f"--list={listed}"])
        == 0
    )
    digests = tmp_path / "DIGESTS"
    assert main(["prepare", "cifar10_subset", str(whole), f"--write_list={digests}"]) == 0
    assert main(["prepare", "cifar10_subset", str(whole), f"--verify={digests}"]) == 0
    whole.rename(copy)
    (copy / "val").rename(copy / "test")
    assert (
        main(["prepare", "cifar10_subset", str(again), f"--source={copy}", f"--list={digests}"])
        == 0
    )
    assert main(["prepare", "cifar10_subset", str(again), f"--verify={digests}"]) == 0
    assert "3 of 3 files are as listed" in capsys.readouterr().out
    (again / "val" / "truck" / "0001.jpg").write_bytes(b"changed")
    (again / "train" / "airplane" / "0003.jpg").rename(again / "train" / "airplane" / "0004.jpg")
    assert main(["prepare", "cifar10_subset", str(again), f"--verify={digests}"]) == 1
    said = capsys.readouterr().out
    assert "missing: 1 files: train/airplane/0003.jpg" in said
    assert "different: 1 files: val/truck/0001.jpg" in said
    assert "not in the list: 1 files: train/airplane/0004.jpg" in said
    assert "1 of 3 files are as listed" in said


@pytest.mark.parametrize(
    "line", ["", "abc  train/cat/0001.jpg", f"{'0' * 64}  ../x.jpg", f"{'0' * 64}  /etc/passwd"]
)
def test_list_with_other_lines_is_refused(tmp_path, line, capsys):
    path = tmp_path / "LIST"
    path.write_text(f"{'0' * 64}  train/cat/0001.jpg\n{line}\n")
    assert main(["prepare", "cifar10_subset", str(tmp_path), f"--verify={path}"]) == 1
    assert "line 2: expected 'sha256  train/CLASS/NNNN.jpg'" in capsys.readouterr().err


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_pickle_runs_nothing(tmp_path):
    target = str(tmp_path / "made")
    with pytest.raises(DataError, match=r"asks for posix.mkdir: refused"):
        load_batch(pickle.dumps({b"data": Malicious(target)}))
    assert not os.path.exists(target)


class Reduced:
    """An object that a pickle builds by `call(*arguments)` and `state`."""

    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


def test_a_forged_state_of_an_array_is_not_given_to_numpy():
    """numpy would take the bytes of this array, whose dtype claims to hold objects, for pointers."""
    fields = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    dtype = Reduced(np.dtype, ("V8", False, True), fields)
    rebuild = np.empty(0).__reduce__()[0]
    state = (1, (3072,), dtype, False, b"A" * 8 * 3072)
    array = Reduced(rebuild, (np.ndarray, (0,), b"b"), state)
    with pytest.raises(DataError, match="not a batch file"):
        load_batch(pickle.dumps({b"data": array, b"labels": [1]}, 4))


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({b"labels": []}), b"\x80\x02}q"])
def test_other_files_are_no_batches(content):
    with pytest.raises(DataError, match="not a batch file"):
        load_batch(content)


def test_batch_pixels():
    data = np.arange(3 * 3072, dtype=np.uint8).reshape(3, 3072)
    images, labels = load_batch(pickle.dumps({b"data": data, b"labels": [1, 2, 3]}, 4))
    assert labels == [1, 2, 3]
    assert np.array_equal(images[1].transpose(2, 0, 1).ravel(), data[1])


def test_missing_source_and_usage(tmp_path, listed, capsys):
    assert (
        main(
            ["prepare", "cifar10_subset", str(tmp_path), f"--source={tmp_path}", f"--list={listed}"]
        )
        == 1
    )
    assert "no data_batch_1 in" in capsys.readouterr().err
    assert main(["prepare", "cifar10_subset", str(tmp_path), f"--source={tmp_path}"]) == 2
