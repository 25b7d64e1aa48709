"""The checksums of TFRecord files: a byte that changed is found, wherever it is, and stops the run."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.main import main
from jaxcnn.data import DataError, Sampling, TrainLoader, open_data
from jaxcnn.data.errors import DamagedRecord
from jaxcnn.data.sources.tfrecord import FOOTER, HEADER, masked_crc
from jaxcnn.data.tensorflow import load_tfds

_COUNT = 12


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of one shard a split, as TFDS writes it."""
    tfds, root = load_tfds(), tmp_path_factory.mktemp("checksums")
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}
    noise = np.random.default_rng(0)

    def example(i):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (9, 9, 3), np.uint8)).save(buffer, "PNG")
        buffer.seek(0)
        return i, {"image": buffer, "label": i % 3}

    class Summed(tfds.core.GeneratorBasedBuilder):
        name = "summed"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": map(example, range(_COUNT)), "test": map(example, range(3))}

        def _generate_examples(self):
            raise NotImplementedError

    Summed(data_dir=str(root)).download_and_prepare(file_format="tfrecord")
    open_data("tfds:summed", str(root))  # makes the index
    return root


@pytest.fixture
def data(prepared):
    return open_data("tfds:summed", str(prepared)).train


@contextlib.contextmanager
def flipped(path, position, bits=0x40):
    """A file of which one byte is changed."""
    with open(path, "r+b") as file:
        file.seek(position)
        before = file.read(1)
        for value in (bytes([before[0] ^ bits]), before):
            file.seek(position)
            file.write(value)
            file.flush()
            if value != before:
                yield


def test_the_checksum_is_that_of_tensorflow(data):
    """Both sums of every record that TFDS wrote."""
    content = data.shards[0].read_bytes()
    for i in range(len(data)):
        offset, length, checksum = data.index.place(i)
        header, body = content[offset - HEADER : offset], content[offset : offset + length]
        assert masked_crc(header[:8]) == int.from_bytes(header[8:], "little")
        assert masked_crc(body) == checksum
        assert int.from_bytes(content[offset + length :][:FOOTER], "little") == checksum


def test_a_changed_byte_in_any_part_of_a_record_is_found(data):
    """Every byte of a record: length and its checksum, image, label and their checksum."""
    record, random = 7, np.random.default_rng(0)
    start, size = data.index.place(record).whole
    whole, _ = data.read(record)
    found = 0
    for position in range(start, start + size):
        with flipped(data.shards[0], position, int(random.integers(1, 256))):
            with pytest.raises(DamagedRecord) as caught:
                data.read(record)
            part = "length" if position < start + HEADER else "data"
            expected = f"record {data.shards[0].name}#{record} is damaged: its {part} does not have"
            assert str(caught.value).startswith(expected)
            assert str(caught.value).endswith("copy or prepare the data set again")
            found += 1
    assert found == size >= 300
    assert data.read(record)[0] == whole


def test_the_lengths_are_checked_when_the_records_are_indexed(
    data, prepared, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    start = data.index.place(5).whole[0]
    index = data.shards[0].parent / "jaxcnn-index-train.npz"
    kept = index.read_bytes()
    for position in range(start, start + HEADER):
        index.unlink()
        with (
            flipped(data.shards[0], position),
            pytest.raises(
                DamagedRecord, match=r"train\.tfrecord-00000-of-00001#5 is damaged: its length"
            ),
        ):
            open_data("tfds:summed", str(prepared))
        index.write_bytes(kept)


def test_damaged_records_stop_training_and_are_no_corrupt_images(data):
    offset, length, _ = data.index.place(3)
    settings = {
        "seed": 0,
        "batch_size": _COUNT,
        "image_size": 8,
        "sampling": Sampling(scale=(8, 8)),
    }
    with flipped(data.shards[0], offset + length - 1), TrainLoader(data, **settings) as batches:
        with pytest.raises(DataError, match=r"#3 is damaged"):
            next(batches)
        assert batches.corrupt == []


def test_another_file_under_the_index_is_found(data):
    """A record of the same length with sums of its own."""
    offset, length, _ = data.index.place(2)
    with open(data.shards[0], "r+b") as file:
        file.seek(offset)
        before = file.read(length + FOOTER)
        after = bytes([before[0] ^ 1]) + before[1:length]
        for content in (after + masked_crc(after).to_bytes(FOOTER, "little"), before):
            file.seek(offset)
            file.write(content)
            file.flush()
            if content != before:
                with pytest.raises(DataError, match=r"#2 is not where the index says"):
                    data.read(2)


def test_verify_lists_all_damaged_records(data, prepared, capsys):
    places = [data.index.place(i).offset for i in (1, 8)]
    command = ["prepare", "tfds:summed", "--verify", f"--data_dir={prepared}", "--threads=1"]
    with flipped(data.shards[0], places[0]), flipped(data.shards[0], places[1]):
        assert main(command) == 1
    shown = capsys.readouterr().out
    for i in (1, 8):
        assert f"{data.shards[0].name}#{i}: its data does not have" in shown
    assert "2 of 15 images are damaged" in shown
    assert main(command) == 0
