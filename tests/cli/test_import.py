"""jaxcnn inspect and jaxcnn import, on files of other programs and of jaxcnn."""

import json

import numpy as np
import pytest

import jaxcnn
from jaxcnn.cli.main import main
from jaxcnn.models import build
from jaxcnn.weights.names import FORMS
from jaxcnn.weights.net_weights import param_shapes
from tests.research.untrained import untrained
from tests.weights.made import stored

MODEL = {"name": "vgg", "column": "D", "image_size": 32, "width": 1 / 16, "num_classes": 1000}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A VGG-16 under Frossard's names."""
    rng = np.random.default_rng(0)
    (form,) = (form for form in FORMS if form.program == "frossard")
    shapes = param_shapes(build(**MODEL))
    params = {n: rng.normal(0, 0.1, shape).astype(np.float32) for n, shape in shapes.items()}
    path = tmp_path_factory.mktemp("files") / "vgg16_weights.npz"
    np.savez(path, **stored(form, params)[0])
    return path


def test_a_file_is_inspected_and_becomes_a_folder_that_is_loaded(file, tmp_path, capsys):
    assert main(["inspect", str(file)]) == 1
    assert "--source=oxford|" in capsys.readouterr().out
    assert main(["inspect", str(file), "--source=frossard"]) == 0
    printed = capsys.readouterr().out
    assert "vgg column=D num_classes=1000 image_size=32 width=0.0625" in printed
    assert "RGB, 0..255 minus (123.68, 116.779, 103.939)" in printed
    assert f"next: jaxcnn import {file} --source=frossard --out=DIR" in printed
    out = tmp_path / "out"
    assert main(["import", str(file), "--source=frossard", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert f"next: jaxcnn evaluate {out} --protocol=dense --data=tfds:imagenet2012" in printed
    loaded = jaxcnn.load(out)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    of_file = jaxcnn.load(file, source="frossard").probabilities(images)
    np.testing.assert_array_equal(loaded.probabilities(images), of_file)
    origin = json.loads((out / "origin.json").read_text())
    assert (origin["file"], origin["source"], origin["known_by"]) == (
        "vgg16_weights.npz",
        "frossard",
        "--source",
    )
    assert len(origin["sha256"]) == 64
    assert main(["import", str(file), "--source=frossard", f"--out={out}"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_bgr_is_printed_in_its_own_order(file, capsys):
    assert main(["inspect", str(file), "--source=keras"]) == 0
    assert "BGR, 0..255 minus (103.939, 116.779, 123.68)" in capsys.readouterr().out


@pytest.mark.parametrize("format_name", ["safetensors", "npz"])
def test_an_exported_run_comes_in_again(format_name, tmp_path, capsys):
    run, exported, out = untrained(tmp_path / "run"), tmp_path / "exported", tmp_path / "out"
    assert main(["export", str(run), f"--format={format_name}", f"--out={exported}"]) == 0
    assert main(["inspect", str(exported)]) == 0
    assert main(["import", str(exported), f"--out={out}"]) == 0
    assert "--data=folder:PATH" in capsys.readouterr().out
    before, after = jaxcnn.load(run), jaxcnn.load(out)
    assert after.classes == before.classes
    for layer, arrays in before.variables["params"].items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, after.variables["params"][layer][name])
    assert json.loads((out / "origin.json").read_text())["before"]["run"] == "run"


def test_wrong_arguments_are_usage_errors(file, tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    assert main(["import", str(file), "--source=oxfort", out]) == 2
    assert "did you mean oxford?" in capsys.readouterr().err
    assert main(["import", str(file), "--mean=1,2,3", "--mean_image=a.npy", out]) == 2
    with pytest.raises(SystemExit) as end:
        main(["import", str(file), "--mean=1,2", out])
    assert end.value.code == 2


def test_a_mean_image_must_be_that_of_the_weights(file, tmp_path, capsys):
    images = {"zero": np.zeros((3, 256, 256), np.float32), "text": np.array(["a"])}
    images["right"] = np.broadcast_to(np.float32([104, 117, 123])[:, None, None], (3, 256, 256))
    for name, image in images.items():
        np.save(tmp_path / f"{name}.npy", image)

    def imported(name):
        mean, out = f"--mean_image={tmp_path / name}.npy", f"--out={tmp_path / 'out'}"
        return main(["import", str(file), "--source=frossard", mean, out])

    assert imported("zero") == imported("text") == 1
    said = capsys.readouterr().err
    assert "zero.npy has the channel means (0, 0, 0) in RGB" in said
    assert "text.npy holds <U1, expected numbers" in said
    assert imported("right") == 0
    assert jaxcnn.load(tmp_path / "out").mean.shape == (256, 256, 3)
