"""jaxcnn export: what it writes equals what the run computes; nothing is overwritten or left half done."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.cli import export
from jaxcnn.cli.main import command_parser, main
from jaxcnn.training import run as train
from jaxcnn.weights.exports import EXPORT_FORMATS
from jaxcnn.weights.programs.agreement import difference, probe_images
from jaxcnn.weights.programs.stablehlo import read_stablehlo
from jaxcnn.weights.stored import write_weights
from jaxcnn.weights.weight_exports import WEIGHT_FORMATS
from tests.research.untrained import STEP, untrained
from tests.training.runs import config
from tests.weights.drawn import MEAN, drawn_weights

IMAGE = {"mean": "per_pixel", "statistics": "auto", "sampling": "random_crop_in_square"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("export") / "vgg", dtype="bfloat16")


def test_the_formats_of_the_command_are_those_that_can_be_written():
    assert [*EXPORT_FORMATS] == [*export.PROGRAMS]
    assert [*WEIGHT_FORMATS] == [*export.WEIGHTS]


@pytest.mark.slow
def test_a_run_with_a_mean_image(tmp_path, capsys):
    """The program subtracts the mean's central crop, as `Loaded.probabilities` does."""
    run, out = untrained(tmp_path / "alexnet", "alexnet", augment=IMAGE), tmp_path / "a" / "out"
    assert main(["export", str(run), "--format=stablehlo", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert f"alexnet, step {STEP}: probabilities of 72 x 72 images" in printed
    assert f"\n{out}: stablehlo, " in printed
    assert sorted(file.name for file in out.parent.rglob("*")) == [
        *("classes.txt", "out", "program.json", "program.stablehlo", "weights.npz")
    ]
    loaded, images = jaxcnn.load(run), probe_images(72, 72)
    found, expected = read_stablehlo(out)(images), loaded.probabilities(images)
    assert difference(found, {"probabilities": expected}).agrees
    shifted = np.roll(loaded.mean, 9, axis=1)  # another crop
    other = dataclasses.replace(loaded, mean=shifted).probabilities(images)
    assert not difference(found, {"probabilities": other}).agrees


def test_a_layer_of_a_net_in_bfloat16(run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export", str(run), "--format=stablehlo", f"--out={out}", "--json"]
    assert main([*command, "--features=fc7"]) == 0
    seen = capsys.readouterr()
    assert f"vgg, step {STEP}: output of fc7 of 32 x 32 images" in seen.err
    assert "computes in float32, where the run computes in bfloat16" in seen.err
    record = json.loads(seen.out)
    assert record["bytes"] == sum(file.stat().st_size for file in out.iterdir())
    assert record["difference"] < 1e-4
    facts = json.loads((out / "program.json").read_text())
    assert set(facts["outputs"]) == {"features"}
    assert facts["origin"] == {"run": "vgg", "step": STEP}


def test_a_weights_file(tmp_path, capsys):
    file, out = tmp_path / "narrow.safetensors", tmp_path / "out"
    write_weights(file, drawn_weights())
    command = ["export", str(file), "--format=stablehlo", f"--out={out}", "--features=conv1_1"]
    assert main(command) == 0
    assert "narrow.safetensors, imported: output of conv1_1" in capsys.readouterr().out
    facts = json.loads((out / "program.json").read_text())
    assert facts["input"]["mean"] == pytest.approx(MEAN.tolist())
    assert facts["origin"]["title"] == "drawn"
    again = ["export", str(file), "--format=stablehlo", f"--out={out}2", "--source=nobody"]
    assert main(again) == 2
    assert "unknown source 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "size"), [("--dense", (64, 64)), ("--dense=40,70", (40, 70))])
def test_the_size_of_a_score_map(typed, size, run):
    command = [str(run), "--format=stablehlo", "--out=x", typed]
    options = command_parser("export", export).parse_args(command)
    assert export._program(jaxcnn.load(run), options).size == size


def test_a_savedmodel(run, tmp_path, capsys):
    out = tmp_path / "out"
    code, printed = (
        main(["export", str(run), "--format=savedmodel", f"--out={out}"]),
        capsys.readouterr(),
    )
    if jax.__version_info__ >= (0, 12):  # TensorFlow 2.21 cannot read its programs
        assert code == 1
        assert "cannot read the programs of jax" in printed.err
        assert not out.exists()
        return
    assert code == 0
    assert "ran on 2 images: differs from jaxcnn by" in printed.out
    assert {"saved_model.pb", "variables", "assets.extra"} <= {f.name for f in out.iterdir()}


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_overwritten(kind, run, tmp_path, capsys):
    out = tmp_path / "out"
    {
        "file": lambda: out.write_text("kept"),
        "folder": out.mkdir,
        "link": lambda: out.symlink_to("nowhere"),
    }[kind]()
    before = out.lstat()
    assert main(["export", str(run), "--format=stablehlo", f"--out={out}"]) == 2
    assert (
        f"{out} exists, and nothing is overwritten; give another --out" in capsys.readouterr().err
    )
    assert out.lstat() == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_program_that_computes_something_else_is_not_kept(run, tmp_path, capsys, monkeypatch):
    form = EXPORT_FORMATS["stablehlo"]

    def read(path):
        call = form.read(path)
        return lambda images: call(images[..., ::-1])  # as BGR

    monkeypatch.setitem(EXPORT_FORMATS, "stablehlo", form._replace(read=read))
    out = tmp_path / "out"
    assert main(["export", str(run), "--format=stablehlo", f"--out={out}"]) == 1
    assert f"{out} is not written: its outputs differ from jaxcnn's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--features=fc77"], 2, "VGG has no layer 'fc77'; did you mean fc7?"),
        (["--dense=31,64"], 2, "31 x 64 are too small"),
        (["--dense=64,64", "--features=fc7"], 2, "a layer or a score map, not both"),
        (["--step=8"], 1, "has no checkpoint 8"),
    ],
)
def test_bad_input(arguments, code, said, run, tmp_path, capsys):
    command = ["export", str(run), "--format=stablehlo", f"--out={tmp_path / 'out'}"]
    assert main([*command, *arguments]) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--dense=h,w", "expected numbers such as 384,512; got 'h,w'. Only the number of images"),
        ("--dense=64", "expected numbers such as 384,512; got '64'"),
        ("--format=pdf", "invalid choice: 'pdf'"),
    ],
)
def test_bad_usage(option, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "x", "--format=stablehlo", "--out=y", option])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_place_where_nothing_can_be_made(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    assert main(["export", str(run), "--format=stablehlo", f"--out={out}"]) == 1
    assert f"{out} cannot be written (Not a directory)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "tolerance", "may_differ"),
    [((123.675, 116.28, 103.53), 1e-5, 0), ((123.68, 116.779, 103.939), 0.02, 2)],
)
def test_a_trained_run_as_torchvisions_file_and_in_again(
    mean, tolerance, may_differ, tmp_path, capsys
):
    """Its evaluation has the same counts. VGG's own mean is moved, which is not exact at the border: of 64
    images of 32 pixels, whose outermost cells are an eighth, 2 may change sides."""
    folder, out = tmp_path / "run", tmp_path / "out.pth"
    train(config(augment__mean=str(mean), epochs=3), folder, command=["jaxcnn", "train"])
    assert main(["export", str(folder), "--format=torchvision", f"--out={out}"]) == 0
    assert "read again: equal bit by bit" in capsys.readouterr().out
    protocols = ["--protocol=centre scale=32", "--protocol=dense scales=(40,)", "--json"]
    classes = f"--classes={folder / 'classes.txt'}"
    imported = [str(out), "--source=torchvision", classes, "--data=synthetic:4"]
    results = []
    for source in ([str(folder), "--again"], imported):
        assert main(["evaluate", *source, *protocols]) == 0
        results.append(json.loads(capsys.readouterr().out))
    for ours, theirs in zip(*results, strict=True):
        assert ours["protocol"] == theirs["protocol"]
        assert ours["n"] == theirs["n"] == 64
        assert 0.25 < ours["top1"] < 1
        assert abs(ours["top1"] - theirs["top1"]) * 64 <= may_differ
        assert ours["top5"] == theirs["top5"]
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=tolerance)
