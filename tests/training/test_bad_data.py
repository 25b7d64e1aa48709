"""Faulty image folders: messages and exit codes of the train command, and results that stay correct."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli.main import main
from jaxcnn.evaluation.ensemble import load_posteriors

ROOT = Path(__file__).parent.parent.parent
CLASSES, TRAIN, VAL = ("cat", "dog"), 12, 4


def jpeg(seed, size=(40, 40), mode="RGB", form="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 4), np.uint8)
    image = Image.fromarray(pixels[..., :3]).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, form)
    return encoded.getvalue()


@pytest.fixture
def folder(tmp_path):
    """24 training and 8 validation images of two classes."""
    root = tmp_path / "images"
    for split, count in (("train", TRAIN), ("val", VAL)):
        for c, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.jpg").write_bytes(jpeg(100 * c + i))
    return root


def start(folder, workdir, *flags, **changes):
    keys = {
        "batch_size": "8",
        "epochs": "1",
        "model.width": "0.0625",
        "model.image_size": "32",
        "data.source": f"folder:{folder}",
        "augment.scale": "(32,32)",
        "evals": "({'name':'centre','scale':32},)",
        "mesh.data": "1",
        "schedule.rate": "0.001",
        "log.tensorboard": "false",
    } | {k.replace("__", "."): v for k, v in changes.items()}
    arguments = [f"--config.{k}={v}" for k, v in keys.items()]
    return main(["train", "--config=quickstart", f"--workdir={workdir}", *arguments, *flags])


def report(workdir):
    return json.loads((workdir / "report.json").read_text())


def test_an_empty_class_folder_is_named(folder, tmp_path, capsys):
    for file in (folder / "train" / "dog").iterdir():
        file.unlink()
    assert start(folder, tmp_path / "run") == 1
    assert "dog" in capsys.readouterr().err


def test_classes_that_differ_between_splits_are_named(folder, tmp_path, capsys):
    (folder / "val" / "dog").rename(folder / "val" / "wolf")
    assert start(folder, tmp_path / "run") == 1
    shown = capsys.readouterr().err
    assert "dog" in shown
    assert "wolf" in shown


def test_a_folder_without_images_is_an_error(folder, tmp_path, capsys):
    for file in folder.rglob("*.jpg"):
        file.unlink()
    assert start(folder, tmp_path / "run") == 1
    assert "no images" in capsys.readouterr().err


def test_a_missing_train_folder_is_an_error(folder, tmp_path, capsys):
    shutil.rmtree(folder / "train")
    assert start(folder, tmp_path / "run") == 1
    assert "has no train/" in capsys.readouterr().err


def test_fewer_images_than_a_batch_are_an_error_and_the_advised_batch_size_works(
    folder, tmp_path, capsys
):
    assert start(folder, tmp_path / "run", batch_size="32") == 1
    assert "only 24 training images" in capsys.readouterr().err
    assert start(folder, tmp_path / "run", batch_size="24", epochs="0", evals="()") == 0


def test_data_that_changed_since_the_start_of_a_run_are_an_error(folder, tmp_path, capsys):
    assert start(folder, tmp_path / "run", epochs="0", evals="()") == 0
    (folder / "train" / "dog" / "new.jpg").write_bytes(jpeg(7))
    assert start(folder, tmp_path / "run", epochs="2") == 1
    shown = capsys.readouterr().err
    assert "training split: 25 images, was 24\n  training split: dog/new.jpg is new" in shown
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "zebra")
    assert start(folder, tmp_path / "run", epochs="2") == 1
    assert "the classes of the data differ from" in capsys.readouterr().err


def test_results_belong_to_the_images_that_they_are_of(folder, tmp_path, capsys):
    """A validation image more: evaluated again and kept apart, until the run accepts the change."""
    run = tmp_path / "run"
    evaluate = ["evaluate", f"--workdir={run}", "--protocol=centre scale=32", "--save_posteriors"]
    assert start(folder, run) == 0
    assert main(evaluate) == 0
    before, old = report(run), sorted((run / "posteriors").iterdir())
    assert [row["n"] for row in before["results"]] == [2 * VAL]
    assert (
        main([*evaluate, f"data.source=folder:{shutil.copytree(folder, tmp_path / 'copy')}"]) == 0
    )
    assert "from report.json" in capsys.readouterr().out  # the same images in another place

    (folder / "val" / "cat" / "new.jpg").write_bytes(jpeg(7))
    assert main(evaluate) == 0
    shown = capsys.readouterr().out
    assert "run: the images of val are not those of the run" in shown
    assert f"n={2 * VAL + 1} " in shown
    assert "not written to" in shown
    assert report(run) == before
    new = sorted({*(run / "posteriors").iterdir()} - {*old})
    assert [len(load_posteriors(file).ids) for file in (*old, *new)] == [2 * VAL, 2 * VAL + 1]

    assert start(folder, run) == 1
    assert "evaluation split val: cat/new.jpg is new" in capsys.readouterr().err
    assert start(folder, run, "--accept_changed_data") == 0
    line = "evaluation split val: 9 images, was 8; evaluation split val: cat/new.jpg is new"
    assert f"the data changed at step 3, which was accepted: {line}" in capsys.readouterr().out
    (row,) = report(run)["results"]
    assert row["n"] == 2 * VAL + 1
    assert row["images"] != before["results"][0]["images"]
    accepted = {"step": 3, "changes": line.split("; ")}
    assert report(run)["accepted_changes"] == [accepted]
    starts = json.loads((run / "run.json").read_text())["starts"]
    assert [start.get("accepted_changes") for start in starts] == [None, accepted["changes"]]
    assert starts[0]["data"]["train"] == starts[1]["data"]["train"]
    assert start(folder, run) == 0  # the new images are those of the run now
    assert report(run)["results"] == [row]


def test_a_corrupt_image_counts_once_over_two_epochs(folder, tmp_path):
    (folder / "train" / "cat" / "2.jpg").write_bytes(b"no image")
    assert start(folder, tmp_path / "run", epochs="2") == 0
    assert len(report(tmp_path / "run")["unreadable_images"]) == 1


def test_a_corrupt_image_in_each_split_is_reported_and_still_counted(folder, tmp_path, capsys):
    for split in ("train", "val"):
        bad = folder / split / "cat" / "2.jpg"
        bad.write_bytes(bad.read_bytes()[:200])
    assert start(folder, tmp_path / "run") == 0
    found = report(tmp_path / "run")
    assert found["unreadable_images"] == [
        str(folder / s / "cat" / "2.jpg") for s in ("train", "val")
    ]
    assert found["results"][0]["n"] == 2 * VAL
    assert "2 corrupt images (report.json names them)" in capsys.readouterr().out


def test_other_formats_and_colour_modes_named_jpg_are_read(folder, tmp_path):
    forms = [
        ("RGB", "PNG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "BMP"),
        ("L", "PNG"),
        ("RGB", "GIF"),
    ]
    for i, (mode, form) in enumerate(forms):
        (folder / "train" / "cat" / f"{i}.jpg").write_bytes(jpeg(i, mode=mode, form=form))
        (folder / "val" / "cat" / f"{i % VAL}.jpg").write_bytes(jpeg(i, mode=mode, form=form))
    assert start(folder, tmp_path / "run") == 0
    assert report(tmp_path / "run")["unreadable_images"] == []


def test_tiny_and_narrow_images_are_rescaled(folder, tmp_path):
    (folder / "train" / "cat" / "0.jpg").write_bytes(jpeg(0, size=(1, 1)))
    (folder / "val" / "cat" / "0.jpg").write_bytes(jpeg(0, size=(3, 200)))
    assert start(folder, tmp_path / "run") == 0
    assert report(tmp_path / "run")["unreadable_images"] == []


def test_an_image_size_too_small_for_the_net_is_an_error(folder, tmp_path, capsys):
    assert start(folder, tmp_path / "run", model__image_size="16") == 2
    assert "image_size=16 is too small: give 32 or more" in capsys.readouterr().err


def test_a_workdir_of_another_config_or_net_is_an_error(folder, tmp_path, capsys):
    assert start(folder, tmp_path / "run", epochs="0", evals="()") == 0
    assert start(folder, tmp_path / "run", optim__momentum="0.5") == 1
    assert "optim.momentum: 0.9 -> 0.5" in capsys.readouterr().err
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model": config["model"] | {"width": 0.125}}))
    assert start(folder, tmp_path / "run", model__width="0.125") == 1
    assert "belongs to another net" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_an_error(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert start(folder, tmp_path / "file" / "run") == 1
    assert "cannot write to the workdir" in capsys.readouterr().err
