"""jaxcnn plan: figures and bounds for hardware that is not attached."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.cli.main import main
from jaxcnn.planning import topology
from jaxcnn.planning.topology import library, read_target

ROOT = Path(__file__).parent.parent.parent
HAS_LIBTPU = "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None
TINY = (
    "--config.model.width=0.0625",
    "--config.model.image_size=32",
    "--config.augment.scale=(32,32)",
    "--config.evals=()",
)


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_vgg_d_on_eight_h100_by_the_model(capsys):
    """Bounds from the net's operations and the chip's data sheet; every figure is marked as modelled."""
    command = ["--config=vgg_d", "--topology=h100:8", "--config.batch_size=1024"]
    assert main(["plan", *command, "--config.model.dtype=bfloat16", "--config.mesh.plan=data"]) == 0
    shown = capsys.readouterr().out
    assert "128 images a chip x 8, bfloat16, data 8 x model 1, data parallel" in shown
    assert "15.470 G an image   model" in shown
    assert "all-reduce            553.43 MB x 8        2.15 ms   gradients" in shown
    lines = {line[:20]: line.split() for line in shown.splitlines()}
    assert lines["compute: model, 989 "][-3:] == ["11.99", "85,398", "10,675"]
    assert lines["step, if nothing ove"][-3] == "14.14"
    assert lines["step, if all overlap"][-3] == "11.99"
    assert "compiled" not in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_json_has_the_same_figures(capsys):
    command = ["--config=alexnet", "--topology=v5e:512", "--config.batch_size=65536", "--json"]
    assert main(["plan", *command, "--config.model.dtype=bfloat16", "--config.mesh.plan=data"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["chips"], tree["batch_a_chip"], tree["memory"]["source"]) == (512, 128, "model")
    assert tree["estimate"]["flops_an_image"] == pytest.approx(4.136e9, rel=1e-3)
    # Two slices of 256, each a full torus. The exchange between slices is hidden by the rings inside them.
    (reduced,) = tree["estimate"]["collectives"]
    assert (reduced["kind"], reduced["bytes"]) == ("all-reduce", 4 * 60_965_224)
    inside = 2 * 255 / 256 * 243.861e6 / 180e9
    assert tree["seconds"]["network"] == pytest.approx(inside, rel=1e-3)
    assert tree["compiled"] is tree["images_a_second"]["as_scheduled"] is None


def test_a_slow_network_between_nodes(capsys):
    """25 Gb/s per node of 4: 351 ms. Horovod reports 68 % of linear scaling for VGG-16 on such a network."""
    command = ["--config=vgg_d", "--topology=v100:512,4", "--network_gbps=25", "--json"]
    assert main(["plan", *command, "--config.batch_size=32768", "--config.mesh.plan=data"]) == 0
    seconds = json.loads(capsys.readouterr().out)["seconds"]
    assert seconds["network"] == pytest.approx(0.351, abs=0.001)


@pytest.mark.parametrize(
    ("text", "shape", "count", "node"),
    [
        ("v5e:4x4", (4, 4), 16, 0),
        ("v4:2x2x4", (2, 2, 4), 16, 0),
        ("v5e:512", (), 512, 0),
        ("h100:16,4", (), 16, 4),
        ("a100:4", (), 4, 0),
    ],
)
def test_topologies(text, shape, count, node):
    target = read_target(text)
    assert (target.shape, target.count, target.node) == (shape, count, node)
    assert target.compiles == bool(shape)
    assert target.name == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v9:4x4", "give a TPU slice (v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:4x4)"),
        ("v5e", "GPUs (h100, a100, v100"),
        ("v5e:0", "a number of TPUs"),
        ("v5e:4x4x4", "give a TPU slice"),  # libtpu accepts it, but no v5e has three axes
        ("h100:4x2", "give a TPU slice"),
        ("v5e:4x4,2", "give a TPU slice"),
        (
            "h100:12",
            "not a multiple of the 8 chips of a node; the nearest multiple: --topology=h100:16",
        ),
        ("v5e:300", "not a multiple of the 256 chips of a slice"),
    ],
)
def test_wrong_topologies(text, said, capsys):
    assert main(["plan", "--config=vgg_a", f"--topology={text}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --topology=")
    assert said in error


def test_without_libtpu_a_slice_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(topology, "find_spec", lambda _: None)
    assert main(["plan", "--config=vgg_a", "--topology=v5e:4x4"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'libtpu==0.0.42.*'" in error
    assert "jaxcnn[tpu]" in error
    assert "--topology=v5e:16" in error
    with pytest.raises(ValueError, match=r"TPU_LIBRARY_PATH=.* is not a file"):
        library({"TPU_LIBRARY_PATH": str(tmp_path / "absent.so")})


def test_a_batch_or_mesh_that_does_not_fit(capsys):
    command = ["--config=vgg_a", "--topology=h100:8"]
    assert main(["plan", *command, "--config.batch_size=100"]) == 1
    assert "--config.batch_size=96" in capsys.readouterr().err
    assert main(["plan", *command, "--config.mesh.data=4"]) == 1
    assert "leaves some of the 8 chips unused" in capsys.readouterr().err
    assert main(["plan", *command, "--config.model.colum=E"]) == 2
    assert "did you mean model.column?" in capsys.readouterr().err


def test_usage_errors(capsys):
    for wrong, said in (
        ("model.width=1", "unrecognized arguments: model.width=1"),
        ("--config.batch_size", "needs a value: --config.batch_size=VALUE"),
        ("--network_gbps=-1", "must be 0 or more, got -1"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["plan", "--config=vgg_a", "--topology=h100:8", wrong])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_started_as_a_program():
    command = [
        sys.executable,
        "-m",
        "jaxcnn",
        "plan",
        "--config=vgg_a",
        "--topology=a100:1",
        *TINY,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "collectives of a step: model\n  none" in text


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="the extra tpu (libtpu) is not installed")
def test_a_tiny_net_compiled_for_four_v5e(tmp_path):
    """Most all-reduces of gradients overlap with computation; the state is updated in place."""
    out = tmp_path / "step.hlo"
    command = [
        sys.executable,
        "-m",
        "jaxcnn",
        "plan",
        "--config=vgg_a",
        "--topology=v5e:2x2",
        *TINY,
    ]
    command += ["--config.batch_size=32", "--config.mesh.plan=data", "--config.mesh.bucket_mb=0.02"]
    done = subprocess.run(
        [*command, "--json", f"--hlo={out}"], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    tree = json.loads(done.stdout)
    step, memory = tree["compiled"], tree["memory"]
    assert (memory["source"], memory["peak_bytes"]) == ("compiled", step["peak"])
    assert step["outputs"] - step["aliased"] < 10_000  # only the metrics' sums are new
    sent = step["transfers"]
    assert all(c["kind"] == "all-reduce" and c["devices"] == 4 for c in sent)
    assert sum(c["asynchronous"] for c in sent) > len(sent) / 2
    forecast = tree["estimate"]["collectives"][0]["bytes"]
    assert sum(c["bytes"] for c in sent) == pytest.approx(forecast, rel=0.01)
    assert out.read_text().startswith("HloModule")
