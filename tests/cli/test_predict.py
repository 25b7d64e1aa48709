"""jaxcnn predict: its text, its JSON, and files that are not images."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn.cli.main import main
from tests.evaluation.small import CLASSES, pixels_of
from tests.research.untrained import STEP, untrained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("predict") / "vgg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, a corrupt one, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for name, size in {"a.png": (50, 70), "c.png": (90, 40)}.items():
        Image.fromarray(pixels_of(*size)).save(folder / name)
    (folder / "b.jpg").write_bytes(b"\xff\xd8 and no more")
    (folder / "notes.txt").write_text("not an image")
    return folder


def expected(run, path):
    """(label, probability) by the loaded run, the most probable first."""
    loaded = jaxcnn.load(run)
    found = np.asarray(loaded.probabilities(loaded.preprocess(path)))[0]
    return [(int(label), float(found[label])) for label in np.argsort(-found)]


def test_files_folders_and_errors(run, folder, capsys):
    """A corrupt and a missing file do not keep the others from being classified."""
    paths = [str(folder / "c.png"), str(folder), "missing.png"]
    assert main(["predict", f"--workdir={run}", *paths, "--top=3"]) == 1
    printed = capsys.readouterr()
    images = [folder / "c.png", folder / "a.png", folder / "c.png"]
    lines = printed.out.splitlines()
    assert len(lines) == len(images) * 4
    for image, (path, *classes) in zip(images, zip(*[iter(lines)] * 4, strict=True), strict=True):
        assert path == str(image)
        rows = [(f"{p:.2%}", f"class_{k:03}") for k, p in expected(run, image)[:3]]
        assert [tuple(line.split()) for line in classes] == rows
        assert len({line.index("%") for line in classes}) == 1
    said = printed.err
    assert f"cannot read {folder / 'b.jpg'}: truncated JPEG" in said
    assert "cannot read missing.png: No such file or directory" in said
    assert "2 of 5 images cannot be read" in said
    assert f"vgg, step {STEP}: 5 images by centre(40->32)" in said
    assert "evaluation of crops of 32 x 32" in said


def test_a_file_whose_name_begins_with_dashes(run, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    shutil.copy("c.png", "--c.png")
    try:
        assert main(["predict", f"--workdir={run}", "--", "--c.png"]) == 0
    finally:
        Path("--c.png").unlink()
    assert capsys.readouterr().out.startswith("--c.png\n")


def test_json_prints_an_object_per_line(run, folder, capsys):
    paths = [str(folder / "a.png"), str(folder / "b.jpg"), "missing.png", str(folder / "c.png")]
    assert main(["predict", f"--workdir={run}", "--json", *paths]) == 1
    seen = capsys.readouterr()
    rows = [json.loads(line) for line in seen.out.splitlines()]
    assert [row["image"] for row in rows] == paths
    assert [set(row) for row in rows] == [
        {"image", "classes", "protocol"},
        {"image", "error"},
        {"image", "error"},
        {"image", "classes", "protocol"},
    ]
    assert rows[1]["error"].startswith("truncated JPEG")
    assert rows[2]["error"] == "No such file or directory"
    assert f"cannot read {paths[1]}: truncated" in seen.err
    assert "cannot read missing.png" in seen.err
    for row in (rows[0], rows[3]):
        assert row["protocol"] == "centre(40->32)"
        wanted = expected(run, row["image"])
        assert len(wanted) == CLASSES
        for one, (label, probability) in zip(row["classes"], wanted, strict=True):
            assert (one["label"], one["name"]) == (label, f"class_{label:03}")
            assert one["probability"] == pytest.approx(probability, rel=2e-5)


def test_another_protocol_and_all_classes(run, folder, capsys):
    image = str(folder / "a.png")
    arguments = [f"--workdir={run}", image, "--json", "--top=99", "--batch_size=3"]
    assert main(["predict", *arguments, "--protocol=ten_crops scale=40", f"--step={STEP}"]) == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert row["protocol"] == "ten_crops(40->32)"
    assert len(row["classes"]) == CLASSES
    found = [one["probability"] for one in row["classes"]]
    assert found == sorted(found, reverse=True)
    assert sum(found) == pytest.approx(1, abs=1e-5)


def test_a_file_name_that_is_not_utf8(run, folder, tmp_path, capsys):
    os.symlink(folder / "a.png", os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"))
    assert main(["predict", f"--workdir={run}", str(tmp_path), "--top=1"]) == 0
    path, best = capsys.readouterr().out.splitlines()
    assert path == f"{tmp_path}/caf\\xe9.png"
    assert best.split()[1].startswith("class_")
    assert main(["predict", f"--workdir={run}", str(tmp_path), "--json"]) == 0
    assert os.path.exists(json.loads(capsys.readouterr().out)["image"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--workdir=nowhere", "x.jpg"], 1, "nowhere holds no run"),
        (["--workdir={run}", "{run}"], 1, "a folder without images"),
        (["--workdir={run}", "x.jpg", "--protocol=centr"], 2, "did you mean centre?"),
        (["--workdir={run}", "x.jpg", "--protocol=centre scale=31"], 2, "is smaller than"),
        (["--workdir={run}", "x.jpg", "--step=8"], 1, "has no checkpoint 8; there are [7]"),
    ],
)
def test_bad_input(arguments, code, said, run, capsys):
    assert main(["predict", *(a.format(run=run) for a in arguments)]) == code
    seen = capsys.readouterr()
    assert said in seen.err
    assert seen.out == ""


@pytest.mark.parametrize(
    ("option", "said"),
    [("--top=0", "--top: must be 1 or more, got 0"), ("--batch_size=0", "got 0")],
)
def test_bad_usage(option, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--workdir=x", "x.jpg", option])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
