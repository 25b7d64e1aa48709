"""Rows of measurements, and errors for bad input."""

import json
import subprocess
import sys

import pytest

from jaxcnn.benchmarks.measurement import Measurement, format_measurements
from jaxcnn.cli.main import main
from jaxcnn.planning import hardware

KEYS = {
    *("what", "images_per_second", "seconds", "memory_bytes", "bound"),
    *("peer", "peer_images_per_second", "ratio"),
}


def test_a_row_is_one_object_on_one_line():
    row = Measurement("a", 12.3456, 0.5, 7, 24.0, facts={"cores": 2, "parts": {"x": 1 / 3}})
    seen = json.loads(json.dumps(row.record(), allow_nan=False))
    assert set(seen) >= KEYS
    assert seen["images_per_second"] == 12.35
    assert seen["ratio"] == pytest.approx(
        12.3456 / 24, rel=1e-3
    )  # to the bound, since there is no peer
    assert (seen["cores"], seen["parts"]["x"]) == (2, 0.3333)


def test_ratio_is_to_the_peer_if_there_is_one():
    row = Measurement("a", 10.0, 0.5, 0, 100.0, "other 1.0", 8.0)
    assert row.ratio == 1.25
    assert Measurement("a", 10.0, 0.5).ratio is None
    lines = format_measurements([row, Measurement("b", 1.0, 2.0)]).splitlines()
    assert lines[2].split()[-1] == "1.250"


def test_an_unknown_device_has_no_bound():
    assert hardware.by_device_kind("NVIDIA H100 80GB HBM3") is hardware.CHIPS["h100"]
    assert hardware.by_device_kind("TPU v5 lite") is hardware.CHIPS["v5e"]
    assert hardware.by_device_kind("NVIDIA H100 PCIe") is None  # unlike the SXM card
    assert hardware.by_device_kind("cpu") is None


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("absent", "no folder"), ("empty", "train/"), ("without", "no class folders")],
)
def test_a_folder_without_images_is_an_error(folder, expected, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "without" / "train").mkdir(parents=True)
    (tmp_path / "without" / "val").mkdir()
    assert main(["bench", "input", f"--source=folder:{tmp_path / folder}"]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["nothing"], ["step", "--repeats=0"], ["step", "--mode=fly"]])
def test_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["bench", *wrong])
    assert caught.value.code == 2
    capsys.readouterr()


def test_the_worker_of_the_peer_does_not_import_jax():
    """Each framework is timed without the other one's threads."""
    code = "import sys, jaxcnn.benchmarks.step_worker; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
