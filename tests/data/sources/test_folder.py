import re
import shutil

import pytest

from jaxcnn.data import DataError, display_names, open_data
from jaxcnn.data.classes import check_same_classes


def test_classes_are_the_sorted_folder_names(image_folder):
    (image_folder / "train" / ".cache").mkdir()
    data = open_data(f"folder:{image_folder}")
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train.class_names == data.evaluation.class_names
    assert (len(data.train), len(data.evaluation), data.held_out) == (15, 9, None)
    assert data.train.name(7) == str(image_folder / "train" / "bee" / "2.jpg")
    content, label = data.train.read(7)
    assert content == (image_folder / "train" / "bee" / "2.jpg").read_bytes()
    assert label == 1
    assert data.description == f"folder {image_folder}: 3 classes, 15 train, 9 val"


def test_files_of_other_kinds_are_ignored_and_counted(image_folder):
    (image_folder / "train" / "ant" / "notes.txt").write_text("hello")
    (image_folder / "train" / "bee" / "more").mkdir()
    (image_folder / "val" / "list.csv").write_text("")
    shutil.copy(image_folder / "train" / "ant" / "0.jpg", image_folder / "train" / "ant" / "Z.JPEG")
    data = open_data(f"folder:{image_folder}")
    assert len(data.train) == 16
    assert data.description.endswith("3 files that are not images ignored")


def test_names_may_contain_any_character(image_folder):
    odd = image_folder / "train" / "ant" / "zürich 1 'x'.jpg"
    shutil.copy(image_folder / "train" / "ant" / "0.jpg", odd)
    data = open_data(f"folder:{image_folder}")
    assert data.train.name(5) == str(odd)
    assert data.train.read(5)[0] == odd.read_bytes()


def test_splits_may_have_other_names(image_folder):
    (image_folder / "val").rename(image_folder / "test")
    data = open_data(f"folder:{image_folder}", eval_split="test")
    assert len(data.evaluation) == 9


def error(folder):
    with pytest.raises(DataError) as caught:
        open_data(f"folder:{folder}")
    return str(caught.value)


def test_missing_path(tmp_path):
    message = error(tmp_path / "none")
    assert message.startswith(f"no folder {tmp_path / 'none'}; expected PATH/train/CLASS/*.jpg")
    assert "--config.data.source=folder:PATH" in message


def test_missing_splits(image_folder):
    (image_folder / "val").rename(image_folder / "validation")
    message = error(image_folder)
    assert f"{image_folder} has no val/; " in message
    assert "it holds train, validation" in message
    assert "--config.data.eval_split" in message
    shutil.rmtree(image_folder / "train")
    assert "has no train/ and no val/" in error(image_folder)


def test_no_class_folders_and_no_images(image_folder):
    for image in (image_folder / "val").glob("*/*"):
        image.rename(image.with_suffix(".tiff"))
    message = error(image_folder)
    assert (
        f"no images in 3 of the 3 class folders of {image_folder / 'val'}: ant, bee, cat" in message
    )
    assert "9 files that are not images were seen" in message
    shutil.rmtree(image_folder / "val")
    (image_folder / "val").mkdir()
    assert f"no class folders in {image_folder / 'val'}" in error(image_folder)


def test_empty_class_folder_is_named(image_folder):
    for split in ("train", "val"):
        (image_folder / split / "dog").mkdir()
    message = error(image_folder)
    assert f"no images in 1 of the 4 class folders of {image_folder / 'train'}: dog" in message


def test_both_differences_of_the_classes_are_listed(image_folder):
    (image_folder / "val" / "cat").rename(image_folder / "val" / "kitten")
    message = error(image_folder)
    assert "only in train: cat; only in val: kitten" in message


def test_differing_classes_are_counted_and_their_order_is_named():
    names = tuple(f"class_{i:02}" for i in range(12))
    for others, how in (
        (names[:2], "only in train: class_02, class_03, .*class_09 and 2 more; only in val: none"),
        (names[::-1], "the same names in another order"),
    ):
        with pytest.raises(DataError, match=rf"\(12\).* in here differ: {how}; do it"):
            check_same_classes(("train", "val"), (names, others), "here", "do it")
    check_same_classes(("train", "val"), (names, names), "here", "do it")


@pytest.fixture
def flat_imagenet(image_folder):
    """Three of ImageNet's classes in train/ and its first validation images, flat, in val/."""
    wnids = {"ant": "n01751748", "bee": "n02105855", "cat": "n09193705"}
    for name, wnid in wnids.items():
        (image_folder / "train" / name).rename(image_folder / "train" / wnid)
    files = sorted((image_folder / "val").glob("*/*"))
    for number in (1, 2):
        files[number].rename(image_folder / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    for name in wnids:
        shutil.rmtree(image_folder / "val" / name)
    return image_folder


def test_flat_validation_folder_uses_the_shipped_labels(flat_imagenet):
    # The first two lines of the list that TFDS ships: n01751748, n09193705.
    data = open_data(f"folder:{flat_imagenet}")
    assert data.class_names == ("n01751748", "n02105855", "n09193705")
    assert [data.evaluation.read(i)[1] for i in range(2)] == [0, 2]
    assert data.evaluation.name(1).endswith("val/ILSVRC2012_val_00000002.JPEG")
    assert display_names(data.class_names) == ("sea snake", "Shetland sheepdog", "alp")


def test_flat_validation_folder_uses_kaggles_labels(flat_imagenet):
    (flat_imagenet / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000002,n02105855 1 2 3 4 n02105855 5 6 7 8 \n"
        "ILSVRC2012_val_00000001,n09193705 85 1 499 272 \n"
    )
    data = open_data(f"folder:{flat_imagenet}")
    assert [data.evaluation.read(i)[1] for i in range(2)] == [2, 1]


def test_flat_validation_folder_needs_its_classes_in_train(flat_imagenet):
    shutil.rmtree(flat_imagenet / "train" / "n09193705")
    message = error(flat_imagenet)
    assert re.search(r"val_00000002.JPEG has class n09193705 in .*validation_labels.txt", message)
    assert "not one of the 2 class folders" in message
