import errno
import os
import re
import shutil
from types import SimpleNamespace

import pytest

from jaxcnn import retries
from jaxcnn.data import CorruptImage, DataError, display_names, open_data
from jaxcnn.data.classes import check_same_classes
from jaxcnn.data.fingerprint import take_fingerprint
from jaxcnn.data.regular_file import read_regular_file
from jaxcnn.data.sources import folder as folder_module
from jaxcnn.printable import printable_name


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


def names_of(source):
    return [os.path.relpath(source.name(i), source.root) for i in range(len(source))]


def test_what_is_left_out_is_said_by_kind_and_split(image_folder, caplog):
    ant, content = image_folder / "train" / "ant", (image_folder / "train/ant/0.jpg").read_bytes()
    for name in ("notes.txt", "README", "a.TXT", "b.tiff"):
        (ant / name).write_bytes(b"BM, which begins no bitmap")
    (ant / "empty").mkdir()
    (ant / "gone").symlink_to("nowhere")
    os.mkfifo(ant / "fifo.pipe")
    (image_folder / "val" / "list.csv").write_text("")
    (ant / "Z.JPEG").write_bytes(content)
    data = open_data(f"folder:{image_folder}")
    assert len(data.train) == 16
    assert data.description.endswith("7 files that are not images ignored")
    rule = "(JPEG, PNG, GIF, BMP or WebP files in class folders count)"
    assert [record.getMessage() for record in caplog.records] == [
        f"left out of {image_folder}/train: 2 .txt, 1 .pipe, 1 .tiff, 1 without suffix, 1 without suffix "
        f"(No such file or directory) {rule}",
        f"left out of {image_folder}/val: 1 not in a class folder {rule}",
    ]


def test_names_with_a_dot_first_and_folders_of_the_system_never_count(image_folder, caplog):
    plain = names_of(open_data(f"folder:{image_folder}").train)
    for split in ("train", "val"):
        for place in (image_folder / split, image_folder / split / "ant"):
            for name in ("._0.jpg", ".DS_Store"):
                (place / name).write_bytes(b"\x00\x05\x16\x07")
            for name in ("__MACOSX", "@eaDir", ".cache"):
                (place / name).mkdir()
                shutil.copy(image_folder / split / "bee" / "0.jpg", place / name)
    data = open_data(f"folder:{image_folder}")
    assert names_of(data.train) == plain
    assert (data.class_names, len(data.evaluation)) == (("ant", "bee", "cat"), 9)
    said = f"left out of {image_folder}/train: 1 beginning with a dot, 1 folder @eaDir, 1 folder __MACOSX"
    assert said in caplog.text
    assert "DS_Store" not in caplog.text


def test_an_image_that_cannot_be_opened_is_one_corrupt_image(image_folder):
    """Also where sizes are taken, before a run."""
    link = image_folder / "train" / "ant" / "00.jpg"
    link.symlink_to(link.name)
    source = open_data(f"folder:{image_folder}").train
    sizes = take_fingerprint(source).sizes
    assert [i for i in range(len(source)) if sizes[i] < 0] == [names_of(source).index("ant/00.jpg")]


def test_files_beside_the_images_are_not_opened(image_folder, caplog, monkeypatch):
    for i in range(5):
        (image_folder / f"train/ant/{i}.json").touch()
        (image_folder / f"train/bee/{i}.XML").touch()
    monkeypatch.setattr("jaxcnn.data.sources.image_files._first_bytes", lambda _: 1 / 0)
    assert len(open_data(f"folder:{image_folder}").train) == 15
    assert f"left out of {image_folder}/train: 5 .json, 5 .xml (" in caplog.text


def test_content_decides_where_the_suffix_does_not(image_folder, encoded, smooth_image):
    folder = image_folder / "train" / "ant"
    kinds = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
    for suffix in ("", ".JPG_large", ".txt"):
        for kind in kinds:
            (folder / f"{kind}{suffix}").write_bytes(encoded(smooth_image(8, 8), kind))
    for suffix in ("jfif", "jpe", "JPE", "pjpeg"):  # by name
        (folder / f"named.{suffix}").write_bytes(b"")
    (folder / "link").symlink_to(image_folder / "train" / "bee" / "0.jpg")
    names = names_of(open_data(f"folder:{image_folder}").train)
    found = [name.removeprefix("ant/") for name in names if name.startswith("ant/")]
    assert len(found) == 5 + 15 + 4 + 1
    assert found == sorted(os.listdir(folder))


def test_folders_inside_a_class_belong_to_it(image_folder, caplog):
    ant = image_folder / "train" / "ant"
    flat = names_of(open_data(f"folder:{image_folder}").train)
    for name, target in (("b/c/x.jpg", "0.jpg"), ("b/a.jpg", "1.jpg"), ("0.jpg.d/y.jpg", "2.jpg")):
        (ant / name).parent.mkdir(parents=True, exist_ok=True)
        (ant / target).rename(ant / name)
    (ant / "b" / "loop").symlink_to(ant)
    (ant / "linked").symlink_to(image_folder / "val" / "ant")
    found = names_of(open_data(f"folder:{image_folder}").train)
    assert found == [
        *("ant/0.jpg.d/y.jpg", "ant/3.jpg", "ant/4.jpg", "ant/b/a.jpg", "ant/b/c/x.jpg"),
        *("ant/linked/0.jpg", "ant/linked/1.jpg", "ant/linked/2.jpg"),
        *flat[5:],
    ]
    assert "1 link to a folder around it" in caplog.text
    assert f"6 of the images in {image_folder}/train lie in folders inside" in caplog.text


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_transient_errors_are_tried_again_and_then_stop_the_run(image_folder, monkeypatch, code):
    source = open_data(f"folder:{image_folder}").train
    content, pauses, failures = source.read(0), [], [code] * 3

    def failing_read(path):
        if failures:
            raise OSError(failures.pop(), "no")
        return read_regular_file(path)

    monkeypatch.setattr(retries, "_sleep", lambda pause, _: pauses.append(pause))
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: float(sum(pauses))))
    monkeypatch.setattr(folder_module, "read_regular_file", failing_read)
    assert source.read(0) == content
    assert pauses == [0.1, 0.5, 2.0]
    failures += [code] * 7
    with pytest.raises(DataError, match=rf"0.jpg: .*{errno.errorcode[code]}\), 7 times in 91 s"):
        source.read(0)
    assert (len(pauses), failures) == (9, [])


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ELOOP])
def test_other_errors_are_those_of_an_image(image_folder, monkeypatch, code):
    source = open_data(f"folder:{image_folder}").train

    def failing_read(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder_module, "read_regular_file", failing_read)
    with pytest.raises(CorruptImage, match=os.strerror(code)) as caught:
        source.read(7)
    assert caught.value.label == 1


def test_names_may_contain_any_character(image_folder):
    odd = image_folder / "train" / "ant" / "zürich 1 'x'.jpg"
    shutil.copy(image_folder / "train" / "ant" / "0.jpg", odd)
    data = open_data(f"folder:{image_folder}")
    assert data.train.name(5) == str(odd)
    assert data.train.read(5)[0] == odd.read_bytes()


@pytest.mark.parametrize("name", [b"a\x85b", b"caf\xe9", "a\u2028b".encode(), b"\x1b[31m", b"a\rb"])
def test_hostile_names_of_classes_are_refused(image_folder, name):
    for split in ("train", "val"):
        shutil.move(
            image_folder / split / "ant", os.path.join(os.fsencode(image_folder / split), name)
        )
    message = error(image_folder)
    assert f"the names of 1 classes of folder {image_folder} contain control characters" in message
    assert printable_name(message) == message


def test_forms_of_unicode_that_look_alike_are_told_apart(image_folder):
    (image_folder / "train" / "ant").rename(image_folder / "train" / "caf\xe9")
    (image_folder / "val" / "ant").rename(image_folder / "val" / "cafe\u0301")
    expected = r"'caf\xe9' in train differs in Unicode form from 'cafe\u0301' in val"
    assert expected in error(image_folder)
    shutil.copytree(image_folder / "train" / "caf\xe9", image_folder / "train" / "cafe\u0301")
    assert "have one name in two Unicode forms" in error(image_folder)


def test_files_whose_names_are_not_utf8_are_read(image_folder):
    path = os.path.join(os.fsencode(image_folder / "train" / "ant"), b"\xff\n\x1b.jpg")
    shutil.copy(image_folder / "train" / "ant" / "0.jpg", path)
    source = open_data(f"folder:{image_folder}").train
    (index,) = [i for i in range(len(source)) if os.fsencode(source.name(i)) == path]
    assert source.read(index) == source.read(0)


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
        image.with_suffix(".tiff").write_bytes(b"II*\0")
        image.unlink()
    message = error(image_folder)
    assert (
        f"no images in 3 of the 3 class folders of {image_folder / 'val'}: ant, bee, cat" in message
    )
    assert "9 files that are not images were seen: 9 .tiff" in message
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
