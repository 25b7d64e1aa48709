"""Kinds of TFDS data sets: types of images, labels without names, keys, nested features, slices."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import DataError, open_data
from jaxcnn.data.sources import tfds_features
from jaxcnn.data.tensorflow import load_tfds

_BUILDERS = {}


def png(number, side=8):
    buffer = io.BytesIO()
    Image.new("RGB", (side + number, side), (number, 0, 0)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def prepare(root, name, features, example, counts, supervised=None):
    """A data set as TFDS writes it: `example(features module, i)` for i below the counts of its splits."""
    tfds = load_tfds()

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features(tfds.features)),
            supervised_keys=supervised,
            disable_shuffling=True,
        )

    def examples(count):
        yield from ((i, example(i)) for i in range(count))

    fields = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": name,
        "_info": info,
        "_split_generators": lambda _, __: {k: examples(n) for k, n in counts.items()},
        "_generate_examples": lambda _: None,
    }
    if name not in _BUILDERS:
        _BUILDERS[name] = type(name, (tfds.core.GeneratorBasedBuilder,), fields)
    config = tfds.download.DownloadConfig(num_shards=2)
    _BUILDERS[name](data_dir=str(root)).download_and_prepare(
        file_format="tfrecord", download_config=config
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    prepare(
        root,
        "named",
        lambda f: {"image": f.Image(), "label": f.ClassLabel(names=["a", "b"])},
        lambda i: {"image": png(i), "label": i % 2},
        {"train": 20, "test": 6},
    )
    prepare(
        root,
        "keyed",
        lambda f: {
            "photo": f.Image(),
            "depth": f.Image(dtype=np.uint16, shape=(4, 4, 1)),
            "bits": f.Image(dtype=np.float32, shape=(4, 4, 1)),
            "frames": f.Sequence(f.Image()),
            "objects": {"crop": f.Image(), "kind": f.ClassLabel(num_classes=3)},
            "number": f.Scalar(np.int64),
            "from_one": f.Tensor(shape=(), dtype=np.int32),
            "text": f.Text(),
        },
        lambda i: {
            "photo": png(i),
            "depth": np.full((4, 4, 1), 1000 * i, np.uint16),
            "bits": np.full((4, 4, 1), i / 10, np.float32),
            "frames": [png(i)],
            "objects": {"crop": png(50 + i), "kind": i % 3},
            "number": i % 4,
            "from_one": 1 + i % 4,
            "text": "x",
        },
        {"train": 10},
    )
    return root


SLICES = {"train_split": "train[:80%]", "eval_split": "train[80%:]"}


def widths(source):
    from jaxcnn.data.decode import peek

    return [peek(source.read(i)[0])[1] - 8 for i in range(len(source))]


@pytest.mark.parametrize(
    "split",
    [
        "train[:80%]",
        "train[80%:]",
        "train[3:17]",
        "train[-5:]",
        "train[:7]+test",
        "test[1:]+train[9:11]",
        "train[:1shard]",
        "train[:25%]+train[75%:]",
        "train[:33%](pct1_dropremainder)",
    ],
)
def test_slices_are_those_of_tfds_in_its_order(root, split):
    tfds = load_tfds()
    builder = tfds.builder_from_directory(str(root / "named" / "1.0.0"))
    try:
        read = builder.as_dataset(split=split, shuffle_files=False)
    except ValueError:  # TFDS rounds percents of few images
        with pytest.raises(DataError, match=r"has no split"):
            open_data("tfds:named", str(root), train_split=split, eval_split="test")
        return
    expected = [e["image"].shape[1] - 8 for e in tfds.as_numpy(read)]
    data = open_data("tfds:named", str(root), train_split=split, eval_split="test")
    assert widths(data.train) == expected
    assert len(data.train) == len(expected) > 0


def test_a_whole_split_is_unchanged_by_slices(root):
    whole = open_data("tfds:named", str(root)).train
    part = open_data("tfds:named", str(root), train_split="train[5:]").train
    assert part.name(0) == whole.name(5)
    assert part.ids.tolist() == list(range(5, 20))
    assert whole.ids.tolist() == list(range(20))


def test_images_in_both_splits_are_said(root, caplog):
    open_data("tfds:named", str(root), **SLICES)
    assert not caplog.records
    open_data("tfds:named", str(root), train_split="train[:80%]", eval_split="train[50%:]")
    assert "6 of the 10 images of data.eval_split=train[50%:] are in" in caplog.text
    caplog.clear()
    open_data("tfds:named", str(root), train_split="test", eval_split="test")
    assert "are both test: what is evaluated was trained on" in caplog.text


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ("validation", r"no split 'validation', only train, test"),
        ("train[", r"no split 'train\['.*only train, test.*train\[:90%\]"),
        ("train[:200%]", r"no split 'train\[:200%\]'"),
        ("train+nothing", r"no split 'train\+nothing'"),
        ("train[:0]", r"train\[:0\].* has no records|no split"),
        ("train[x:]", r"no split"),
    ],
)
def test_wrong_splits_are_errors_that_show_slices(root, split, problem):
    with pytest.raises(DataError, match=problem):
        open_data("tfds:named", str(root), train_split=split)


def test_a_data_set_of_one_split_says_how_to_slice_it(root):
    with pytest.raises(DataError, match=r"no split 'test', only train; .*'train\[90%:\]'"):
        open_data("tfds:keyed", str(root), image_key="photo", label_key="objects/kind")


def test_keys_choose_features(root):
    data = open_data("tfds:keyed", str(root), image_key="photo", label_key="objects/kind", **SLICES)
    assert data.class_names == ("0", "1", "2")
    assert widths(data.train) == list(range(8))
    assert [data.evaluation.read(i)[1] for i in range(2)] == [8 % 3, 9 % 3]
    data = open_data(
        "tfds:keyed", str(root), image_key="objects/crop", label_key="objects/kind", **SLICES
    )
    assert widths(data.train) == list(range(50, 58))


def test_integer_labels_without_names_are_numbered_and_read_once(root, monkeypatch):
    keys = {"image_key": "photo", "label_key": "number"}
    first = open_data("tfds:keyed", str(root), **keys, **SLICES)
    assert first.class_names == ("0", "1", "2", "3")
    monkeypatch.setattr(tfds_features, "_labels", None)  # no record is read for its label again
    again = open_data("tfds:keyed", str(root), **keys, **SLICES)
    assert [again.train.read(i)[1] for i in range(8)] == [0, 1, 2, 3] * 2
    assert again.class_names == first.class_names == again.evaluation.class_names


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            {},
            r"no feature 'image' for images; set --config.data.image_key to objects/crop or photo",
        ),
        ({"image_key": "bits"}, r"images bits are of type float32, only uint8"),
        ({"image_key": "depth"}, r"images depth are of type uint16, only uint8"),
        ({"image_key": "frames"}, r"frames is Sequence\(Image"),
        ({"image_key": "text"}, r"text is Text.*expected an Image"),
        ({"image_key": "phot"}, r"no feature 'phot'"),
        (
            {"image_key": "photo"},
            r"no feature 'label' for labels; .*label_key to objects/kind or from_one or number",
        ),
        ({"image_key": "photo", "label_key": "text"}, r"text is Text.*expected a ClassLabel"),
        (
            {"image_key": "photo", "label_key": "from_one"},
            r"4 numbers from 1 to 4, .*0 is the first",
        ),
    ],
)
def test_features_that_cannot_be_used_are_errors_with_the_types(root, keys, problem):
    with pytest.raises(DataError, match=problem) as caught:
        open_data("tfds:keyed", str(root), **keys, **SLICES)
    if "from_one" not in keys.values():
        assert "\n  bits: Image(shape=(4, 4, 1), dtype=float32)\n" in str(caught.value)


def test_keys_are_for_tfds():
    with pytest.raises(DataError, match="are for tfds:NAME, not for synthetic:4"):
        open_data("synthetic:4", image_key="photo")
