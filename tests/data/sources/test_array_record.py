"""Data sets that TFDS stores as array_record: read like the same data set stored as TFRecord."""

import contextlib
import io
import json
import resource
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from jaxcnn import object_store
from jaxcnn.cli.main import main
from jaxcnn.data import DataError, Sampling, TrainLoader, open_data
from jaxcnn.data.errors import DamagedRecord
from jaxcnn.data.fingerprint import records_of, take_fingerprint
from jaxcnn.data.preparation.imagenet import prepare_imagenet
from jaxcnn.data.sources import array_record_files, array_record_tail
from jaxcnn.data.sources.array_record_files import ArrayRecordIndex
from jaxcnn.data.sources.array_record_tail import BLOCK
from jaxcnn.data.sources.shard_files import shard_file
from jaxcnn.data.sources.tfds_features import read_labels
from jaxcnn.data.tensorflow import load_tfds
from tests.imagenet_tars import write_tars

FORMATS = ("tfrecord", "array_record")
_COUNT = 40


def example(i):
    """One image in eight is longer than a block, so that headers of blocks interrupt its record."""
    buffer, side = io.BytesIO(), 180 if i % 8 == 0 else 12
    pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    return i, {"image": buffer, "label": i % 3}


@pytest.fixture(scope="module")
def builder():
    tfds = load_tfds()
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}

    class Stored(tfds.core.GeneratorBasedBuilder):
        name = "stored"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": map(example, range(_COUNT)), "test": map(example, range(50, 55))}

        def _generate_examples(self):
            raise NotImplementedError

    return Stored


@pytest.fixture(scope="module")
def prepared(builder, tmp_path_factory):
    """The data set in both formats, in three shards a split: folder by format."""
    config = load_tfds().download.DownloadConfig(num_shards=3)
    roots = {form: tmp_path_factory.mktemp(form) for form in FORMATS}
    for form, root in roots.items():
        made = builder(data_dir=str(root))
        made.download_and_prepare(file_format=form, download_config=config)
    return roots


@pytest.fixture
def copied(prepared, tmp_path):
    shutil.copytree(prepared["array_record"], tmp_path / "data")
    return tmp_path / "data"


def shards(root, split="train"):
    return sorted((root / "stored" / "1.0.0").glob(f"stored-{split}.array_record-*"))


def scan(path, count):
    return ArrayRecordIndex.scan(shard_file(path), count, path.stat().st_size)


def open_both(prepared, **options):
    return [open_data("tfds:stored", str(prepared[form]), **options) for form in FORMATS]


@pytest.mark.parametrize("split", ["train", "train[:80%]", "train[30%:]", "test+train[:7]"])
def test_equal_to_the_same_data_set_as_tfrecord(prepared, split):
    """Records, order, names, ids, sizes; slices and sums."""
    one, other = open_both(prepared, train_split=split, eval_split="train[90%:]")
    assert one.class_names == other.class_names
    for a, b in ((one.train, other.train), (one.evaluation, other.evaluation)):
        assert [a.read(i) for i in range(len(a))] == [b.read(i) for i in range(len(b))]
        assert len(a) == len(b) > 0
        names = [a.name(i).replace("tfrecord", "array_record") for i in range(len(a))]
        assert names == [b.name(i) for i in range(len(b))]
        np.testing.assert_array_equal(a.ids, b.ids)
        prints = take_fingerprint(a), take_fingerprint(b)
        np.testing.assert_array_equal(prints[0].sizes, prints[1].sizes)
    if split == "train":
        assert other.train.name(0) == "stored-train.array_record-00000-of-00003#0"


def test_equal_batches(prepared):
    batches = []
    for data in open_both(prepared, held_out=5):
        with TrainLoader(
            data.train,
            seed=3,
            batch_size=16,
            image_size=8,
            sampling=Sampling(scale=(8, 12)),
            threads=3,
        ) as loader:
            batches.append([next(loader) for _ in range(4)])
    for one, other in zip(*batches, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_labels_of_integers_are_read(prepared):
    train = open_data("tfds:stored", str(prepared["array_record"])).train
    labels = read_labels(train.files, train.index, "label", "train")
    np.testing.assert_array_equal(labels, [train.read(i)[1] for i in range(_COUNT)])


def test_many_threads_and_few_open_files(prepared, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))  # two readers for three files
    train = open_data("tfds:stored", str(prepared["array_record"])).train
    expected = [train.read(i) for i in range(_COUNT)]
    wrong = []

    def read(seed):
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(_COUNT), 5))
        wrong.extend(i for i in order.tolist() if train.read(i) != expected[i])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert train.index._reader.cache_info().currsize == 2


@contextlib.contextmanager
def flipped(path, position, bits):
    """A file of which one byte is changed."""
    with open(path, "r+b") as file:
        file.seek(position)
        (before,) = file.read(1)
        for value in (before ^ bits, before):
            file.seek(position)
            file.write(bytes([value]))
            file.flush()
            if value != before:
                yield


def test_a_changed_byte_in_any_part_of_a_record_is_found(copied):
    """300 bytes of a long record: headers of the chunk and of a block, sizes, image and label."""
    train = open_data("tfds:stored", str(copied)).train
    record = int(np.argmax(train.index.length[:-1]))
    start, stop = train.index.offset[record : record + 2].tolist()
    block = -(-start // BLOCK) * BLOCK
    assert start + 60 < block < stop - 60
    random = np.random.default_rng(0)
    positions = {*range(start, start + 60), *range(block, block + 24), *range(stop - 60, stop)}
    while len(positions) < 300:
        positions.add(int(random.integers(start, stop)))
    whole, name = train.read(record), train.name(record)
    for position in sorted(positions):
        with (
            flipped(
                train.shards[train.index.shard[record]], position, int(random.integers(1, 256))
            ),
            pytest.raises(
                DamagedRecord, match=f"record {name} is damaged: .* hash mismatch"
            ) as caught,
        ):
            train.read(record)
        assert str(caught.value).endswith("copy or prepare the data set again")
    assert train.read(record) == whole


def test_damage_stops_training_and_is_listed(copied, capsys):
    data = open_data("tfds:stored", str(copied)).train
    place = data.index.offset[11] + 100
    settings = {"batch_size": _COUNT, "image_size": 8, "sampling": Sampling(scale=(8, 8))}
    with flipped(data.shards[data.index.shard[11]], place, 1):
        with TrainLoader(data, seed=0, **settings) as batches:
            with pytest.raises(DataError, match=f"{data.name(11)} is damaged"):
                next(batches)
            assert batches.corrupt == []
        assert main(["prepare", "tfds:stored", f"--data_dir={copied}", "--verify"]) == 1
    out = capsys.readouterr().out
    assert f"{data.name(11)}: array_record: Corrupted" in out
    assert "1 of 45 images are damaged" in out


def test_an_error_of_the_disk_is_no_damage(copied):
    """The package has one type of error for both."""
    train = open_data("tfds:stored", str(copied)).train

    class Reader:
        def __call__(self, _):
            return self

        def read(self, *_):
            raise RuntimeError("pread() failed: Stale file handle")

        def cache_clear(self):
            self.cleared = True

    vars(train.index)["_reader"] = Reader()
    train.shards[0].unlink()
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        train.read(0)
    assert train.index._reader.cleared


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shard: shard.unlink(), "1 of 3 files of the data set are missing, the first is "),
        (lambda shard: shard.write_bytes(b""), "is damaged: it has 0 bytes"),
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-1]), "is damaged: "),
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-BLOCK]), "is damaged: "),
        (
            lambda shard: shard.write_bytes(bytes(3 * BLOCK)),
            "is damaged: its last 65,536 bytes are not an end",
        ),
    ],
)
def test_damaged_files(copied, change, message):
    change(shards(copied)[1])
    with pytest.raises(DataError, match=message) as caught:
        open_data("tfds:stored", str(copied))
    assert shards(copied)[0].parent.name in str(caught.value)
    assert "copy or prepare the data set again" in str(caught.value)


def test_a_file_of_another_data_set(copied):
    data = open_data("tfds:stored", str(copied)).train
    data.index.length[0] += 1
    with pytest.raises(DataError, match="changed after it was indexed"):
        data.read(0)
    shutil.copy(shards(copied, "test")[0], shards(copied)[1])
    with pytest.raises(DataError, match=r"expected 1[34] records, found [12];"):
        open_data("tfds:stored", str(copied))


@pytest.mark.parametrize("codec", ["uncompressed", "zstd:3", "brotli:1", "snappy"])
def test_the_index_of_a_file(tmp_path, codec):
    """Records of 0 to 200,000 bytes, and an index that is longer than a block."""
    module = array_record_files.load_array_record()
    writer = module.ArrayRecordWriter(str(tmp_path / "a"), f"group_size:1,{codec}")
    records = [bytes(n % 100) for n in range(9000)] + [b"", b"x" * 200_000, bytes(range(256))]
    for record in records:
        writer.write(record)
    writer.close()
    offsets, lengths, _ = scan(tmp_path / "a", len(records))
    assert lengths.tolist() == list(map(len, records))
    content, ends = (tmp_path / "a").read_bytes(), [*offsets[1:].tolist(), None]
    for i in (0, 1, 700, 8999, 9000, 9001, 9002):
        chunk = content[offsets[i] : ends[i]]
        assert array_record_tail._decode(chunk, offsets.item(i))[1] == records[i]


def test_chunks_of_several_records_are_refused(tmp_path):
    module = array_record_files.load_array_record()
    writer = module.ArrayRecordWriter(str(tmp_path / "a"), "group_size:2")
    for record in (b"one", b"two", b"three"):
        writer.write(record)
    writer.close()
    with pytest.raises(
        DataError, match=r"more than one record, expected one in each \(group_size:1\)"
    ):
        scan(tmp_path / "a", 3)


def test_without_the_package(prepared, copied, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_module", None)
    (copied / "stored" / "1.0.0" / "jaxcnn-index-train.npz").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"need the package array_record.*pip install array_record"):
        open_data("tfds:stored", str(copied))
    argv = ["prepare", "digits", f"--data_dir={copied}", "--file_format=array_record"]
    assert main(argv) == 1
    assert "pip install array_record" in capsys.readouterr().err
    assert len(open_data("tfds:stored", str(prepared["tfrecord"])).train) == _COUNT


def test_a_third_format_is_refused_by_name(copied):
    path = copied / "stored" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    for form in ("riegeli", "parquet"):
        path.write_text(json.dumps(info | {"fileFormat": form}))
        with pytest.raises(
            DataError, match=f"stored as {form}; only tfrecord and array_record are"
        ):
            open_data("tfds:stored", str(copied))


def test_prepare_in_the_other_format(tmp_path, capsys):
    """A folder holds a data set in one format, and TFDS takes what is there without a word."""
    argv = ["prepare", "digits", f"--data_dir={tmp_path}"]
    assert main([*argv, "--file_format=array_record"]) == 0
    files = [file.name for file in (tmp_path / "digits" / "1.0.0").glob("digits-*")]
    assert sorted(files)[0] == "digits-train.array_record-00000-of-00001"
    assert len(files) == 2
    for same in ([], ["--file_format=array_record"]):
        assert main([*argv, *same]) == 0
    capsys.readouterr()
    assert main([*argv, "--file_format=tfrecord"]) == 1
    error = capsys.readouterr().err
    assert "digits is already prepared in" in error
    assert "as array_record, and a folder holds it in one format" in error
    assert "--data_dir=DIR to store it as tfrecord" in error


def test_usage(tmp_path, capsys):
    for argv, expected in (
        (["digits", "--file_format=parquet"], "invalid choice: 'parquet'"),
        (
            ["synthetic:3", "--pack", "--file_format=tfrecord"],
            "--file_format is for data sets that",
        ),
    ):
        with contextlib.suppress(SystemExit):
            assert main(["prepare", *argv, f"--data_dir={tmp_path}"]) == 2
        assert expected in capsys.readouterr().err


@pytest.fixture
def uploaded(prepared, bucket, tmp_path, monkeypatch):
    """The data set in a bucket; the user has no index of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in (prepared["array_record"] / "stored" / "1.0.0").iterdir():
        object_store.write(bucket / "stored" / "1.0.0" / file.name, file.read_bytes())
    return bucket


def test_equal_from_a_bucket(prepared, uploaded, bucket_proxy):
    """Only the ends of the files and the records that are wanted are transferred."""
    local = open_data("tfds:stored", str(prepared["array_record"])).train
    remote = open_data("tfds:stored", str(uploaded)).train
    for one, other in zip(records_of(local), records_of(remote), strict=True):
        np.testing.assert_array_equal(one, other)
    expected = [local.read(i) for i in range(_COUNT)]
    assert [remote.read(i) for i in range(_COUNT)] == expected
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(_COUNT), 4)).tolist()
    bucket_proxy.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(remote.read, order)) == [expected[i] for i in order]
    # One request a record; a connection that is lost on a busy machine is one more.
    assert len(order) <= len(bucket_proxy.requests) < 2 * len(order)


def test_damage_in_a_bucket(uploaded):
    train = open_data("tfds:stored", str(uploaded)).train
    place, number = train.shards[1], int(np.searchsorted(train.index.shard, 1))
    content = object_store.read(place)
    changed = bytearray(content)
    changed[train.index.offset[number] + 70] ^= 1
    object_store.write(place, bytes(changed))
    name = f"record {place.name}#0 is damaged: .*hash mismatch"
    with pytest.raises(DamagedRecord, match=name):
        train.read(number)
    with pytest.raises(DamagedRecord, match=name):  # also by the reader that a second try opens
        train.read(number)
    train.read(number + 1)
    object_store.write(place, content[:-1])
    with pytest.raises(DataError, match=f"{place.name} is damaged"):
        open_data("tfds:stored", str(uploaded))
    object_store.delete(place)
    with pytest.raises(DataError, match=rf"cannot read {place}: there is no such object"):
        train.read(number + 1)
    with pytest.raises(DataError, match="1 of 3 files of the data set are missing"):
        open_data("tfds:stored", str(uploaded))


@pytest.mark.slow
def test_imagenet_from_its_tars(tmp_path):
    (tmp_path / "tars").mkdir()
    expected, data = write_tars(tmp_path / "tars", train=30, val=4, classes=2), []
    for form in FORMATS:
        prepare_imagenet(tmp_path / "tars", tmp_path / form, expected, file_format=form)
        data.append(open_data("tfds:imagenet2012", str(tmp_path / form)))
    for one, other in zip(*((each.train, each.evaluation) for each in data), strict=True):
        assert isinstance(other.index, ArrayRecordIndex)
        assert [one.read(i) for i in range(len(one))] == [other.read(i) for i in range(len(other))]
    assert len(data[1].train) == 30
