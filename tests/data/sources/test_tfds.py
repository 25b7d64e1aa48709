"""Prepared TFDS data sets: the index over their records, and the errors when they are missing or damaged."""

import io
import json
import os
import shutil
import socket
import struct
import time

import numpy as np
import pytest

from jaxcnn.data import DataError, Sampling, TrainLoader, open_data
from jaxcnn.data.crops import rescaled_crop
from jaxcnn.data.decode import decode, peek
from jaxcnn.data.sources import tfrecord_index as records_module
from jaxcnn.data.sources.shard_files import shard_file
from jaxcnn.data.sources.tfds_metadata import find_prepared
from jaxcnn.data.sources.tfrecord import masked_crc
from jaxcnn.data.tensorflow import load_tfds


def write_records(path, contents):
    with open(path, "wb") as file:
        for content in contents:
            length = struct.pack("<Q", len(content))
            header, footer = (struct.pack("<I", masked_crc(part)) for part in (length, content))
            file.write(length + header + content + footer)


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Three files of 3, 0 and 2 records."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    paths = [folder / f"part-{i}" for i in range(3)]
    for path, contents in zip(paths, [[b"a", b"", b"ccc"], [], [b"dd", b"e"]], strict=True):
        write_records(path, contents)
    return paths


def read_all(shards, index):
    files = [*map(shard_file, shards)]
    return [index.read(files, i) for i in range(len(index))]


def index_records(shards, counts, name):
    return records_module.index_records([*map(shard_file, shards)], counts, name)


def test_index_finds_each_record(shards):
    index = index_records(shards, [3, 0, 2], "train")
    assert read_all(shards, index) == [b"a", b"", b"ccc", b"dd", b"e"]
    assert index.shard.tolist() == [0, 0, 0, 2, 2]


def record_scans(monkeypatch):
    seen = []
    scan = records_module._scan
    monkeypatch.setattr(records_module, "_scan", lambda *args: seen.append(args[0]) or scan(*args))
    return seen


def test_shards_are_scanned_once_and_the_index_is_cached_with_them(shards, monkeypatch):
    seen = record_scans(monkeypatch)
    first = index_records(shards, [3, 0, 2], "train")
    assert len(seen) == 3
    assert (shards[0].parent / "jaxcnn-index-train.npz").is_file()
    second = index_records(shards, [3, 0, 2], "train")
    assert len(seen) == 3
    assert np.array_equal(first.offset, second.offset)


def test_index_is_made_again_when_a_file_changes(shards, monkeypatch):
    index_records(shards, [3, 0, 2], "train")
    seen = record_scans(monkeypatch)
    write_records(shards[2], [b"dd", b"changed"])
    index = index_records(shards, [3, 0, 2], "train")
    assert len(seen) == 3
    assert read_all(shards, index)[-1] == b"changed"


def test_broken_cache_is_made_again(shards):
    cache = shards[0].parent / "jaxcnn-index-train.npz"
    index_records(shards, [3, 0, 2], "train")
    whole = cache.read_bytes()
    for broken in (b"", whole[:100], b"PK" + bytes(50), whole[:-30]):
        cache.write_bytes(broken)
        assert len(index_records(shards, [3, 0, 2], "train")) == 5
        assert cache.read_bytes() == whole


def test_index_is_in_the_users_cache_if_the_data_are_read_only(shards, monkeypatch):
    save = records_module._save
    folder = shards[0].parent
    monkeypatch.setattr(
        records_module, "_save", lambda place, *args: place.parent != folder and save(place, *args)
    )
    seen = record_scans(monkeypatch)
    for _ in range(2):
        assert len(index_records(shards, [3, 0, 2], "train")) == 5
    assert len(seen) == 3
    assert len(list((folder.parent / "cache" / "jaxcnn").glob("*/*.npz"))) == 1


def test_failed_write_leaves_no_index(shards, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    assert len(index_records(shards, [3, 0, 2], "train")) == 5
    assert sorted(p.name for p in shards[0].parent.iterdir()) == ["part-0", "part-1", "part-2"]


def test_damaged_and_missing_files(shards):
    with pytest.raises(DataError, match=r"part-0 is damaged: expected 2 records.*found 2 that end"):
        index_records(shards, [2, 0, 2], "train")
    shards[2].write_bytes(shards[2].read_bytes()[:-9])
    with pytest.raises(DataError, match=r"part-2 is damaged"):
        index_records(shards, [3, 0, 2], "train")
    shards[1].unlink()
    with pytest.raises(DataError, match=r"1 of 3 files .* missing, the first is .*part-1"):
        index_records(shards, [3, 0, 2], "train")


def test_file_changed_under_the_index(shards):
    index = index_records(shards, [3, 0, 2], "train")
    write_records(shards[0], [b"longer", b"x", b"y"])
    with pytest.raises(DataError, match="record part-0#0 is not where the index says"):
        read_all(shards, index)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of 23 + 6 images in several shards, as TFDS writes it."""
    from PIL import Image

    root = tmp_path_factory.mktemp("tfds")
    tfds = load_tfds()
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["n01443537", "n01440764x", "owl"]),
            "file_name": tfds.features.Text(),
        }
    )

    def image(i):
        buffer = io.BytesIO()
        Image.new("RGB", (20 + i, 30), (8 * i, 0, 0)).save(buffer, "PNG")
        buffer.seek(0)
        return buffer

    class Few(tfds.core.GeneratorBasedBuilder):
        name = "few"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples(23), "test": self._generate_examples(6)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": image(i), "label": i % 3, "file_name": f"{i}.png"}

    Few(data_dir=str(root)).download_and_prepare(
        file_format="tfrecord",
        download_config=tfds.download.DownloadConfig(num_shards=3),
    )
    return root


def test_prepared_data_set(prepared):
    data = open_data("tfds:few", str(prepared))
    assert data.class_names == ("n01443537", "n01440764x", "owl")
    assert (len(data.train), len(data.evaluation)) == (23, 6)
    assert len(data.train.shards) == 3
    seen = []
    for i in range(23):
        content, label = data.train.read(i)
        height, width = peek(content)
        pixels = decode(content, rescaled_crop(height, width, scale=20, top=0, left=0, side=20))
        number = width - 20
        assert label == number % 3
        assert pixels[0, 0, 0] == 8 * number
        seen.append(number)
    assert sorted(seen) == list(range(23))
    assert data.train.name(0) == "few-train.tfrecord-00000-of-00003#0"
    assert data.train.name(22).startswith("few-train.tfrecord-00002-of-00003#")
    assert data.description.startswith("tfds few/1.0.0 in ")


def test_prepared_data_set_equals_what_tfds_reads(prepared):
    tfds = load_tfds()
    expected = [
        int(label)
        for _, label in tfds.as_numpy(
            tfds.builder_from_directory(str(prepared / "few" / "1.0.0")).as_dataset(
                split="train", as_supervised=True, shuffle_files=False
            )
        )
    ]
    train = open_data("tfds:few", str(prepared)).train
    assert sorted(expected) == sorted(train.read(i)[1] for i in range(23))


def test_batches_of_a_prepared_data_set(prepared):
    data = open_data("tfds:few", str(prepared), held_out=3)
    with TrainLoader(
        data.train,
        seed=0,
        batch_size=10,
        image_size=16,
        sampling=Sampling(scale=(16, 20)),
        threads=3,
    ) as batches:
        rows = [next(batches) for _ in range(2)]
    assert sorted(np.concatenate([b["id"] for b in rows])) == sorted(data.train.ids)


def test_unknown_split_and_version(prepared):
    with pytest.raises(DataError, match=r"no split 'validation', only .*test.*eval_split"):
        open_data("tfds:few", str(prepared), eval_split="validation")
    with pytest.raises(DataError, match=r"'few:2.0.0' is not prepared"):
        open_data("tfds:few:2.0.0", str(prepared))
    assert find_prepared("few:1.0.0", prepared) == prepared / "few" / "1.0.0"
    with pytest.raises(DataError, match="is not a data set's name"):
        open_data("tfds:../few", str(prepared))


def change_metadata(prepared, tmp_path, file, change):
    shutil.copytree(prepared / "few", tmp_path / "few")
    path = tmp_path / "few" / "1.0.0" / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_other_file_format(prepared, tmp_path):
    def change(info):
        info["fileFormat"] = "riegeli"

    change_metadata(prepared, tmp_path, "dataset_info.json", change)
    with pytest.raises(
        DataError, match=r"stored as riegeli; only tfrecord and array_record are supported"
    ):
        open_data("tfds:few", str(tmp_path))


def test_damaged_metadata(prepared, tmp_path):
    shutil.copytree(prepared / "few", tmp_path / "few")
    (tmp_path / "few" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata of the data set in .* cannot be read"):
        open_data("tfds:few", str(tmp_path))


def test_newest_version_is_used(tmp_path):
    for version in ("5.0.0", "5.1.0", "5.10.0", "5.9.0.incompleteAB12", "6.0.0"):
        folder = tmp_path / "some" / version
        folder.mkdir(parents=True)
        if version != "6.0.0":  # without metadata: not finished
            (folder / "dataset_info.json").touch()
    assert find_prepared("some", tmp_path).name == "5.10.0"
    assert find_prepared("some:5.0.0", tmp_path).name == "5.0.0"


def test_a_folder_that_may_not_be_read_is_not_unprepared(tmp_path, monkeypatch):
    (tmp_path / "some").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)  # of Path.iterdir; the tests may run as root
    monkeypatch.setattr(os, "scandir", refuse)  # of Path.glob
    with pytest.raises(PermissionError, match="some"):
        find_prepared("some", tmp_path)


def test_missing_data_set_is_an_error_without_network(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        open_data("tfds:imagenet2012", str(tmp_path))
    assert time.monotonic() - start < 5
    assert f"jaxcnn prepare imagenet2012 --tars=DIR --data_dir={tmp_path}" in str(caught.value)
    with pytest.raises(DataError, match=r"jaxcnn prepare cifar10 .*\(this downloads it\)"):
        open_data("tfds:cifar10", str(tmp_path))


def test_default_data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "there"))
    with pytest.raises(DataError, match=f"is not prepared under {tmp_path / 'there'}"):
        open_data("tfds:imagenet2012")
