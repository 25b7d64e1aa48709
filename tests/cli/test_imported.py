"""The commands on imported weights: a folder and a file, beside the run that has the same weights."""

import json

import numpy as np
import pytest
from PIL import Image

import jaxcnn
from jaxcnn.cli.main import main
from jaxcnn.data.classes import class_table
from jaxcnn.training.imported_run import write_imported
from jaxcnn.weights.net_weights import Leaf
from tests.evaluation.small import CLASSES, MEAN, pixels_of
from tests.research.untrained import untrained
from tests.weights.drawn import drawn_weights

DATA = f"--data=synthetic:{CLASSES}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(
        tmp_path_factory.mktemp("runs") / "run", augment={"mean": tuple(MEAN.tolist())}
    )


@pytest.fixture(scope="module")
def weights(run):
    """The weights of `run`, as if they had been read from a file."""
    made, params = drawn_weights(mean=MEAN), jaxcnn.load(run).variables["params"]
    for path, leaf in made.leaves.items():
        layer, name = path.split("/")
        array = np.asarray(params[layer][name])
        made.leaves[path] = Leaf(leaf.shape, lambda array=array: array)
    return made


@pytest.fixture
def folder(weights, tmp_path):
    return write_imported(tmp_path / "imported", weights)


def results(*arguments, capsys):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_folder_file_and_run_have_the_same_results(run, folder, capsys):
    (of_run,) = results("evaluate", str(run), "--protocol=centre", DATA, capsys=capsys)
    command = ("evaluate", str(folder), DATA, "--protocol=centre", "--save_posteriors")
    (of_folder,) = results(*command, capsys=capsys)
    file = str(folder / "weights.safetensors")
    (of_file,) = results("evaluate", file, "--protocol=centre", DATA, capsys=capsys)
    assert (of_folder["step"], of_folder["n"]) == (0, 80)
    assert of_folder == of_file == {**of_run, "step": 0}
    report = json.loads((folder / "report.json").read_text())
    assert report["results"] == [of_folder]
    (saved,) = (folder / "posteriors").iterdir()
    (fused,) = results("fuse", str(saved), capsys=capsys)[:1]
    assert fused["loss"] == of_folder["loss"]
    assert main(["evaluate", str(folder), "--protocol=centre", DATA]) == 0
    assert "from report.json" in capsys.readouterr().out
    assert {path.name for path in folder.parent.iterdir()} == {"imported"}


def test_classes_are_found_by_name(folder, tmp_path, capsys):
    """Data with two of the classes, as class folders alone, in another order of labels."""
    rng = np.random.default_rng(0)
    for name in ("class_004", "class_001"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    command = ["evaluate", str(folder), "--protocol=centre", f"--data=folder:{tmp_path / 'data'}"]
    (row,) = results(*command, capsys=capsys)
    loaded = jaxcnn.load(folder)
    right = []
    for label in (1, 4):
        for i in range(3):
            views = loaded.preprocess(tmp_path / "data" / f"class_{label:03}" / f"{i}.png")
            right.append(int(np.argmax(loaded.probabilities(views))) == label)
    assert row["n"] == 6
    assert row["top1"] == np.mean(right)
    (tmp_path / "data" / "class_001").rename(tmp_path / "data" / "class_009")
    assert main(command) == 1
    assert "only in the data: class_009" in capsys.readouterr().err
    (tmp_path / "data").rename(tmp_path / "other")
    assert main(command) == 1
    assert "no folder" in capsys.readouterr().err


def test_predictions_of_folder_and_file(folder, tmp_path, capsys):
    Image.fromarray(pixels_of(50, 70)).save(tmp_path / "a.png")
    loaded = jaxcnn.load(folder)
    found = np.asarray(loaded.probabilities(loaded.preprocess(tmp_path / "a.png")))[0]
    for run in (folder, folder / "weights.safetensors"):
        row = results("predict", f"--workdir={run}", str(tmp_path / "a.png"), capsys=capsys)
        labels = [one["label"] for one in row["classes"]]
        assert labels == np.argsort(-found).tolist()
        assert row["protocol"] == "centre(37->32)"


def test_figures_of_a_folder_and_a_file(folder, tmp_path, capsys):
    assert main(["figures", str(folder), "--only=kernels"]) == 0
    assert (folder / "figures" / "kernels.png").exists()
    file = str(folder / "weights.safetensors")
    assert main(["figures", file, "--only=kernels", f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "kernels.png").exists()
    assert main(["figures", file, "--only=kernels"]) == 2
    assert "give the folder to draw into, --out" in capsys.readouterr().err


def test_tables_name_the_origin(run, folder, capsys):
    """Weights of an unknown S fill no row that names one; Oxford's fill those of S in [256;512]."""
    for one in (run, folder):
        results("evaluate", str(one), "--protocol=centre", DATA, capsys=capsys)
    rows = results("table", "protocols", str(run), str(folder), DATA, capsys=capsys)
    assert [row["net"] for row in rows] == [
        "vgg A, width 0.07, 32 pixels, S 40",
        "vgg A, width 0.07, 32 pixels, imported from a.pth (drawn)",
    ]
    assert main(["table", "vgg3", str(folder), DATA, "--list"]) == 0
    assert "imported: fits no row" in capsys.readouterr().out


def test_oxfords_weights_fill_the_row_of_their_scales(tmp_path, capsys):
    made = drawn_weights(column="D", origin={"source": "oxford", "title": "Oxford VGG-16"})
    folder = write_imported(tmp_path / "vgg16", made)
    assert main(["table", "vgg3", str(folder), DATA, "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"run": "vgg16", "missing": "dense(55)"}]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["evaluate", "{file}", "--protocol=centre", DATA, "--save_posteriors"],
            1,
            "import it first",
        ),
        (["evaluate", "{folder}", "--protocol=centre"], 1, "name no data: give some"),
        (["evaluate", "{folder}", "--protocol=centre", "--step=3"], 1, "has no checkpoint 3"),
        (["evaluate", "--protocol=centre"], 2, "give one RUN"),
        (["evaluate", "{folder}", "--workdir={folder}", "--protocol=centre"], 2, "give one RUN"),
        (["evaluate", "{folder}", "--protocol=centre", "--source=oxford"], 1, "leave --source"),
        (
            ["evaluate", "{file}", "--protocol=centre", "--source=oxford"],
            1,
            "leave --net, --source",
        ),
        (["evaluate", "{folder}", "--protocol=centre", "--data=synthetic:9"], 1, "trained on 5"),
        (
            ["table", "vgg3", "{file}", DATA],
            1,
            "is a weights file, and results are kept in a folder",
        ),
        (
            [
                "train",
                "--config=quickstart",
                "--config.data.source=synthetic:4",
                "--workdir={folder}",
            ],
            1,
            "holds imported weights, where nothing is trained",
        ),
    ],
)
def test_bad_input(folder, arguments, code, said, capsys):
    names = {"folder": folder, "file": folder / "weights.safetensors"}
    assert main([argument.format(**names) for argument in arguments]) == code
    assert said in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "config.json", "classes.txt", "origin.json",
    }  # fmt: skip


def test_a_subset_of_imagenets_classes_in_a_flat_or_nested_folder(tmp_path, capsys):
    """WNIDs name the classes, also where a background class comes first."""
    wnids = tuple(row.wnid for row in class_table())
    for i, wnid in enumerate(("n01440764", "n02123045")):
        place = tmp_path / "data" / "val" / wnid
        place.mkdir(parents=True)
        Image.fromarray(pixels_of(40, 40 + i)).save(place / "a.png")
    for classes in (wnids, ("background", *wnids)):
        folder = write_imported(tmp_path / str(len(classes)), drawn_weights(classes=classes))
        command = [
            "evaluate",
            str(folder),
            "--protocol=centre",
            f"--data=folder:{tmp_path / 'data'}",
        ]
        (row,) = results(*command, "--save_posteriors", capsys=capsys)
        assert row["n"] == 2
        (saved,) = (folder / "posteriors").iterdir()
        first = len(classes) - 1000
        assert np.load(saved)["labels"].tolist() == [first, first + 281]
