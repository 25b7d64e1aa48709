"""Data that changed between the starts of a run: seen, named, and refused unless it is accepted."""

import functools
import json
import os
import shutil

import numpy as np
import pytest

from jaxcnn.data import open_data
from jaxcnn.training.data_record import DATA_FILE, PENDING_FILE, recorded_digests
from jaxcnn.training.workdir import claim_workdir
from jaxcnn.training.workdir_lock import WorkdirError, lock_workdir
from tests.training import runs

CLASSES, TRAIN, VAL = ("cat", "dog"), 8, 3


@functools.cache
def config():
    return runs.config()


@pytest.fixture
def images(tmp_path):
    """Files of different sizes that nobody decodes: 16 to train on and 6 to evaluate, of two classes."""
    root, size = tmp_path / "images", 100
    for split, count in (("train", TRAIN), ("val", VAL)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.jpg").write_bytes(os.urandom(size))
                size += 1
    return root


def claim(folder, source, changes=(), held_out=2, accept=False):
    """A start of a run that has a checkpoint; what it found."""
    data = open_data(source, held_out=held_out)
    keys = {"source": source, "held_out": held_out} | dict(changes)
    settings = config() | {"data": config()["data"] | keys}
    with lock_workdir(folder):
        found = claim_workdir(folder, settings, data, accept_changed_data=accept)
        (folder / "checkpoints" / "8").mkdir(parents=True, exist_ok=True)
        return found


def refused(folder, source, **options):
    before = (folder / DATA_FILE).read_bytes()
    with pytest.raises(WorkdirError) as error:
        claim(folder, source, **options)
    assert (folder / DATA_FILE).read_bytes() == before
    return str(error.value)


def renamed(root):
    (root / "train" / "cat" / "0.jpg").rename(root / "train" / "cat" / "9.jpg")
    return ["training split: cat/0.jpg is now cat/9.jpg"]


def moved_to_another_class(root):
    (root / "train" / "cat" / "0.jpg").rename(root / "train" / "dog" / "0a.jpg")
    return ["training split: cat/0.jpg is now dog/0a.jpg"]


def replaced(root):
    (root / "train" / "dog" / "1.jpg").write_bytes(b"another")
    return ["training split: dog/1.jpg: 7 bytes, was 109 bytes"]


def replaced_by_one_of_the_same_size(root):
    (root / "train" / "dog" / "1.jpg").write_bytes(os.urandom(109))
    return ["training split: dog/1.jpg: other content of the same size"]


def swapped(root):
    one, two = root / "val" / "cat" / "0.jpg", root / "val" / "dog" / "0.jpg"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return [
        "evaluation split val: cat/0.jpg: 119 bytes, was 116 bytes",
        "evaluation split val: dog/0.jpg: 116 bytes, was 119 bytes",
    ]


def validation_grown(root):
    for i in range(7):
        (root / "val" / "cat" / f"new{i}.jpg").write_bytes(b"new")
    lines = [f"cat/new{i}.jpg is new" for i in range(5)]
    lines = ["13 images, was 6", *lines, "and 2 more like these"]
    return [f"evaluation split val: {line}" for line in lines]


def validation_shrunk(root):
    (root / "val" / "dog" / "2.jpg").unlink()
    return [f"evaluation split val: {line}" for line in ("5 images, was 6", "dog/2.jpg is gone")]


def both(root):
    return replaced(root) + validation_shrunk(root)


@pytest.mark.parametrize(
    "change",
    [
        renamed,
        moved_to_another_class,
        replaced,
        replaced_by_one_of_the_same_size,
        swapped,
        validation_grown,
        validation_shrunk,
        both,
    ],
)
def test_a_change_is_named_and_can_be_accepted(change, images, tmp_path):
    folder, source = tmp_path / "run", f"folder:{images}"
    first = claim(folder, source)
    assert claim(folder, source) == first
    lines = change(images)
    message = refused(folder, source)
    assert "\n  " + "\n  ".join(lines) + "\nso it cannot resume exactly, and images" in message
    assert "add --accept_changed_data" in message
    accepted = claim(folder, source, accept=True)
    assert accepted["accepted"] == lines
    assert accepted["data"] != first["data"]
    assert accepted["data"] == recorded_digests(folder)
    # Until run.json has it, an interrupted start does not lose it.
    assert claim(folder, source)["accepted"] == lines
    (folder / PENDING_FILE).unlink()
    assert claim(folder, source)["accepted"] == []


def test_classes_that_were_renamed_or_added_are_named(images, tmp_path):
    folder, source = tmp_path / "run", f"folder:{images}"
    claim(folder, source)
    for split in ("train", "val"):
        (images / split / "cat").rename(images / split / "zebra")
    message = refused(folder, source, accept=True)
    assert "only in classes.txt: cat; only in the data: zebra; restore the data" in message
    assert f"--config.init.from_run={folder}" in message
    for split in ("train", "val"):
        shutil.copytree(images / split / "zebra", images / split / "cat")
    assert "only in the data: zebra; restore" in refused(folder, source, accept=True)


def test_classes_in_another_unicode_form_are_named(images, tmp_path):
    for split in ("train", "val"):
        (images / split / "cat").rename(images / split / "caf\u00e9")
    folder, source = tmp_path / "run", f"folder:{images}"
    claim(folder, source)
    for split in ("train", "val"):
        (images / split / "caf\u00e9").rename(images / split / "cafe\u0301")
    assert "differs in Unicode form" in refused(folder, source)


def test_the_same_images_may_lie_elsewhere_in_another_folder_and_on_other_threads(images, tmp_path):
    folder = tmp_path / "run"
    first = claim(folder, f"folder:{images}")
    copy = shutil.copytree(images, tmp_path / "copy")
    moved = claim(folder, f"folder:{copy}", {"threads": 3, "prefetch": 5, "data_dir": "/nowhere"})
    assert moved == first
    replaced(copy)
    assert "dog/1.jpg: 7 bytes" in refused(folder, f"folder:{copy}")
    # Another kind of source has other pixels.
    assert "data.source: 'folder:' -> 'synthetic:2'" in refused(folder, "synthetic:2")


def test_a_run_of_an_earlier_version_resumes_and_gains_a_record(images, tmp_path):
    folder, source = tmp_path / "run", f"folder:{images}"
    first = claim(folder, source)
    (folder / DATA_FILE).unlink()
    start = {"step": 0, "examples": 14}
    (folder / "run.json").write_text(json.dumps({"starts": [start]}))
    assert claim(folder, source) == first
    assert recorded_digests(folder) == first["data"]
    (folder / DATA_FILE).unlink()
    with pytest.raises(WorkdirError, match=r"data\.source: 'folder:.*' -> 'folder:.*copy'"):
        claim(folder, f"folder:{shutil.copytree(images, tmp_path / 'copy')}")
    (images / "train" / "cat" / "new.jpg").write_bytes(b"new")
    with pytest.raises(WorkdirError, match="training images: 15, was 14"):
        claim(folder, source)
    assert claim(folder, source, accept=True)["accepted"] == ["training images: 15, was 14"]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 cut"])
def test_a_damaged_record_does_not_block_a_run_whose_data_are_the_same(images, tmp_path, damage):
    folder, source = tmp_path / "run", f"folder:{images}"
    first = claim(folder, source)
    start = {"step": 0, "examples": 14, "data": first["data"]}
    (folder / "run.json").write_text(json.dumps({"starts": [start]}))
    (folder / DATA_FILE).write_bytes(damage)
    assert claim(folder, source) == first
    assert (folder / DATA_FILE).read_bytes() != damage
    (folder / DATA_FILE).write_bytes(damage)
    replaced(images)
    message = refused(folder, source)
    assert "training split: not the same images; their differences are unknown: " in message
    assert DATA_FILE in message


def test_the_sum_of_gradients_in_slices_is_said_and_remat_is_free(images, tmp_path):
    folder, source = tmp_path / "run", f"folder:{images}"
    claim(folder, source)
    data = open_data(source, held_out=2)
    keys = {"source": source, "held_out": 2}
    settings = config() | {"data": config()["data"] | keys}
    settings |= {"grad_accum_steps": 2, "model": settings["model"] | {"remat": True}}
    (line,) = claim_workdir(folder, settings, data)["changed"]
    assert line.startswith("grad_accum_steps differs from the last start: the gradients are summed")


def test_a_fingerprint_does_not_depend_on_the_order_of_a_listing(images, monkeypatch):
    before = open_data(f"folder:{images}").fingerprint()
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = [*entries][::-1]

        def __enter__(self):
            return iter(self.entries)

        def __iter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert open_data(f"folder:{images}").fingerprint() == before
    assert np.unique([*before.values()][-2:]).size == 2
