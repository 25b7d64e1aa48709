"""Data sets in buckets: the same batches as from a disk, and the errors of what is not there."""

import io
import time

import numpy as np
import pytest

from jaxcnn import object_store, retries
from jaxcnn.data import DataError, Sampling, TrainLoader, open_data
from jaxcnn.data.decode import load_decoders
from jaxcnn.data.preparation.packing import pack
from jaxcnn.data.preparation.upload import upload
from jaxcnn.data.sources.packed_check import checked_in_background, packed_problems
from jaxcnn.data.sources.tfds import index_all
from jaxcnn.data.tensorflow import load_tfds
from tests.data.conftest import encode, make_pixels

_COUNT = 40
_FOLDER = "photos/1.0.0"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a data set of 40 + 8 JPEGs, in three shards each, with its index."""
    load_decoders()  # before the folder of caches changes
    tfds = load_tfds()
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
        "number": tfds.features.Scalar(np.int64),
    }

    class Photos(tfds.core.GeneratorBasedBuilder):
        name = "photos"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            keys = ("image", "label")
            types = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=types, supervised_keys=keys)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples(_COUNT), "test": self._generate_examples(8)}

        def _generate_examples(self, count):
            for i in range(count):
                image = io.BytesIO(encode(make_pixels(30 + i, 60 - i, i), quality=90))
                yield i, {"image": image, "label": i % 3, "number": i % 5}

    root = tmp_path_factory.mktemp("tfds")
    download = tfds.download.DownloadConfig(num_shards=3)
    Photos(data_dir=str(root)).download_and_prepare(download_config=download)
    index_all(root / _FOLDER)
    return root


@pytest.fixture
def uploaded(prepared, bucket, bucket_proxy, tmp_path, monkeypatch):
    """The data set in a bucket."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(prepared / _FOLDER, bucket / _FOLDER)
    bucket_proxy.requests.clear()
    return bucket


def batches(data, steps=7, **options):
    settings = {"batch_size": 12, "image_size": 24, "sampling": Sampling(scale=(24, 30))}
    with TrainLoader(data.train, seed=3, **settings, **options) as loader:
        return [next(loader) for _ in range(steps)]


def same(one, other):
    return all(np.array_equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


@pytest.mark.parametrize(
    "split", [{}, {"train_split": "train[10%:85%]", "eval_split": "train[85%:]+test"}]
)
def test_equal_batches(prepared, uploaded, split):
    here = open_data("tfds:photos", str(prepared), **split)
    there = open_data("tfds:photos", str(uploaded), **split)
    assert here.fingerprint() == there.fingerprint()
    assert same(batches(here), batches(there))
    expected = [here.evaluation.read(i) for i in range(len(here.evaluation))]
    assert [there.evaluation.read(i) for i in range(len(there.evaluation))] == expected


def test_the_index_beside_the_shards_is_used(uploaded, bucket_proxy, tmp_path):
    open_data("tfds:photos", str(uploaded))
    assert not [path for _, path in bucket_proxy.requests if "tfrecord" in path]
    assert len(bucket_proxy.requests) <= 12
    assert not list(tmp_path.rglob("*.npz"))


def test_without_one_the_shards_are_scanned_once_in_whole_blocks(uploaded, bucket_proxy, tmp_path):
    for split in ("train", "test"):
        object_store.delete(uploaded / _FOLDER / f"jaxcnn-index-{split}.npz")
    bucket_proxy.requests.clear()
    for shards_read in (6, 0):
        open_data("tfds:photos", str(uploaded))
        read = [path for _, path in bucket_proxy.requests if "tfrecord" in path]
        assert len(read) == shards_read
        assert {method for method, _ in bucket_proxy.requests} == {"GET"}  # nothing is written
        bucket_proxy.requests.clear()
    assert len(list((tmp_path / "cache" / "jaxcnn").rglob("*.npz"))) == 2


def test_labels_without_class_names(prepared, uploaded, bucket_proxy):
    here, there = (
        open_data("tfds:photos", str(root), label_key="number") for root in (prepared, uploaded)
    )
    assert there.class_names == ("0", "1", "2", "3", "4")
    assert same(batches(here, 1), batches(there, 1))
    assert {method for method, _ in bucket_proxy.requests} == {"GET"}


def test_what_is_not_there(uploaded, bucket_proxy):
    for name, data_dir, expected in (
        ("photos", "gs://no-such-bucket/tfds", "there is no bucket gs://no-such-bucket; give the"),
        ("photos", f"{uploaded}/other", "'photos' is not prepared under gs://.*/other: no dataset"),
        ("flowers", str(uploaded), "jaxcnn prepare flowers --data_dir=gs://"),
    ):
        with pytest.raises(DataError, match=expected):
            open_data(f"tfds:{name}", data_dir)
    object_store.delete(uploaded / _FOLDER / "photos-train.tfrecord-00001-of-00003")
    with pytest.raises(DataError, match=r"1 of 3 files .* missing, the first is gs://.*-00001-of"):
        open_data("tfds:photos", str(uploaded))
    bucket_proxy.status = 403
    with pytest.raises(DataError, match=r"photos cannot be listed \(Forbidden.*objects\.list"):
        open_data("tfds:photos", str(uploaded))


def test_half_an_upload_is_no_data_set(prepared, bucket, bucket_proxy, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", ())
    bucket_proxy.wrong = lambda method, path: 503 * (method == "POST" and "00002-of" in path)
    with pytest.raises(DataError, match=r"cannot write .*looks like no data set"):
        upload(prepared / _FOLDER, bucket / _FOLDER)
    bucket_proxy.behave()
    with pytest.raises(DataError, match="'photos' is not prepared"):
        open_data("tfds:photos", str(bucket))
    upload(prepared / _FOLDER, bucket / _FOLDER)
    assert len(open_data("tfds:photos", str(bucket)).train) == _COUNT


@pytest.fixture
def packed(prepared, bucket, tmp_path):
    """(a packed data set on a disk, the same in a bucket)."""
    data = open_data("tfds:photos", str(prepared))
    splits = {"train": data.train, "test": data.evaluation}
    pack(splits, tmp_path / "packed", origin="tfds:photos", shorter_side=24)
    for file in (tmp_path / "packed").rglob("*"):
        if file.is_file():
            name = str(file.relative_to(tmp_path))
            object_store.write(bucket / name, file.read_bytes())
    return tmp_path / "packed", bucket / "packed"


def test_packed_data_in_a_bucket_give_the_same_batches(packed):
    batches = []
    for root in packed:
        data = open_data(f"packed:{root}", train_split="train", eval_split="test")
        assert (
            data.fingerprint() == open_data(f"packed:{packed[0]}", eval_split="test").fingerprint()
        )
        settings = {"batch_size": 5, "image_size": 16, "sampling": Sampling(scale=(16, 20))}
        with TrainLoader(data.train, seed=0, **settings) as loader:
            batches.append([next(loader) for _ in range(5)])
        assert list(packed_problems(data.train)) == []
        with checked_in_background([data.train]) as thread:
            assert (thread.ident is None) == (root is packed[1])
    for ours, expected in zip(*batches, strict=True):
        for key, value in expected.items():
            np.testing.assert_array_equal(ours[key], value)


def test_packed_data_in_a_bucket_that_are_not_whole(packed):
    _, root = packed
    with pytest.raises(DataError, match=r"no folder .*nothing.*pack with"):
        open_data(f"packed:{root}/nothing")
    shard = root / "train" / "00000.rgb"
    whole = object_store.read(shard)
    object_store.write(shard, whole[:-1])
    with pytest.raises(
        DataError, match=r"00000[.]rgb has .* bytes, expected .*pack or copy it again"
    ):
        open_data(f"packed:{root}", eval_split="test")
    object_store.write(shard, bytes([whole[0] ^ 1]) + whole[1:])
    data = open_data(f"packed:{root}", eval_split="test")
    (problem,) = packed_problems(data.train)
    assert "00000.rgb does not have the recorded SHA-256" in problem
    object_store.delete(shard)
    with pytest.raises(DataError, match=r"00000[.]rgb cannot be read"):
        data.train.read(0)


@pytest.mark.parametrize("status", [404, 403])
def test_a_data_set_that_is_deleted_while_it_is_read(uploaded, bucket_proxy, status):
    data = open_data("tfds:photos", str(uploaded))
    bucket_proxy.wrong = lambda _, path: status * ("train.tfrecord-00001" in path)
    expected = "cannot read gs://.*photos-train.tfrecord-00001-of-00003: "
    settings = {"batch_size": _COUNT, "image_size": 8, "sampling": Sampling(scale=(8, 8))}
    with TrainLoader(data.train, seed=0, **settings) as loader:
        with pytest.raises(DataError, match=expected):
            next(loader)
        assert loader.corrupt == []


def test_copies_of_packed_data_are_compared_with_their_checksums(packed, tmp_path):
    """Their records have no checksums, so a damaged copy would give other images."""
    root, cache = packed[1], tmp_path / "copies"

    def read(copied):
        data = open_data(f"packed:{root}", eval_split="test", cache_dir=str(cache))
        shard = data.train.shards[0]
        found = [bytes(data.train.read(i)[0]) for i in range(_COUNT)]
        until = time.monotonic() + 30
        while copied and shard.copy is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        return [bytes(data.train.read(i)[0]) for i in range(_COUNT)] == found and found

    expected = read(copied=True)
    (copy,) = (path for path in cache.rglob("00000.rgb.*") if path.stat().st_size > 9 * 24 * 24 * 3)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert read(copied=True) == expected
    assert copy.read_bytes() == whole
