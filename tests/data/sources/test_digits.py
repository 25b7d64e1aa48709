import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxcnn.data import EvalLoader, Subset, open_data
from jaxcnn.data.eval_crops import center_crop
from jaxcnn.data.fingerprint import differences, take_fingerprint
from jaxcnn.data.sources.digits import encode_digit, split_digits


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(data_dir):
    return open_data("tfds:digits", str(data_dir))


def test_split_is_fixed_and_even():
    labels = load_digits().target
    train, evaluation = split_digits(labels)
    assert (len(train), len(evaluation)) == (1442, 355)
    assert sorted([*train, *evaluation]) == list(range(1797))
    counts, held = np.bincount(labels), np.bincount(labels[evaluation])
    assert held.tolist() == (counts // 5).tolist()
    assert np.array_equal(evaluation, split_digits(labels)[1])


def test_encoded_digit_keeps_the_pixels():
    image = load_digits().images[0]
    decoded = Image.open(io.BytesIO(encode_digit(image)))
    assert (decoded.size, decoded.mode) == ((64, 64), "RGB")
    small = np.asarray(decoded.convert("L").resize((8, 8), Image.Resampling.BOX), float)
    assert np.corrcoef(small.ravel(), image.ravel())[0, 1] > 0.98
    assert small.max() > 200


def test_first_use_prepares_and_prints_one_line(data, data_dir, capsys):
    assert data.class_names == tuple("0123456789")
    assert (len(data.train), len(data.evaluation)) == (1442, 355)
    assert sorted(path.name for path in data_dir.glob("digits/*")) == ["1.0.0"]
    info = json.loads((data_dir / "digits" / "1.0.0" / "dataset_info.json").read_text())
    keys = info["supervisedKeys"]["tuple"]["items"]
    assert [key["featureKey"] for key in keys] == ["image", "label"]
    again = open_data("tfds:digits", str(data_dir))
    assert again.description == data.description
    assert capsys.readouterr().out == ""


def test_first_use_message(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxcnn.data.sources.digits._examples", few_examples)
    open_data("tfds:digits", str(tmp_path))
    out = capsys.readouterr().out
    assert out == f"prepared the handwritten digits in {tmp_path / 'digits' / '1.0.0'}\n"


def few_examples(part):
    digits = load_digits()
    for i in range(part, 20, 2):
        yield i, {"image": io.BytesIO(encode_digit(digits.images[i])), "label": i % 10}


def test_labels_and_pixels_are_those_of_scikit_learn(data):
    digits = load_digits()
    counts = np.bincount([data.train.read(i)[1] for i in range(len(data.train))], minlength=10)
    train, _ = split_digits(digits.target)
    assert counts.tolist() == np.bincount(digits.target[train]).tolist()
    encoded = {encode_digit(digits.images[i]): int(digits.target[i]) for i in train}
    assert all(encoded[data.train.read(i)[0]] == data.train.read(i)[1] for i in range(40))


def test_images_of_the_evaluation_split_are_decoded(data):
    some = Subset(data.evaluation, np.arange(0, 355, 10))
    with EvalLoader(some, lambda *size: [center_crop(*size, 40, 32)]) as images:
        found = [(image.position, image.size, image.problem) for image in images]
    assert found == [(i, (64, 64), "") for i in range(36)]


def test_interrupted_preparation_leaves_no_data_set(tmp_path, monkeypatch):
    def stop(part):
        yield from few_examples(part)
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxcnn.data.sources.digits._examples", stop)
    with pytest.raises(KeyboardInterrupt):
        open_data("tfds:digits", str(tmp_path))
    assert not (tmp_path / "digits" / "1.0.0").exists()
    monkeypatch.setattr("jaxcnn.data.sources.digits._examples", few_examples)
    assert len(open_data("tfds:digits", str(tmp_path)).train) == 10


def test_records_are_told_by_their_lengths_and_checksums(data):
    """The label is in the record: a changed one changes only the checksum."""
    source = data.train
    found = take_fingerprint(source)
    index, content = source.index, source.shards[0].read_bytes()
    end = int(index.offset[3] + index.length[3])
    assert int.from_bytes(content[end : end + 4], "little") == int(index.checksum[3])
    assert len(found.checksums) == len(source)
    changed = found.checksums.copy()
    changed[3] ^= 1
    other = dataclasses.replace(found, checksums=changed)
    assert other.digest != found.digest
    assert differences(found, other, data.class_names) == [
        f"{source.name(3)}: other content of the same size"
    ]
