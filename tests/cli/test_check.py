"""jaxcnn check: shapes and bytes, computing nothing."""

from pathlib import Path

import jax
import pytest

from jaxcnn.cli.main import main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_vgg_e_at_full_size(capsys):
    """143,667,240 parameters are 574.7 MB; with momentum the state is twice that and the counter."""
    assert main(["check", "configs/vgg_e.py"]) == 0
    shown = capsys.readouterr().out
    assert "conv5_4/kernel" in shown
    assert "float32[3, 3, 512, 512]" in shown
    assert "uint8[256, 224, 224, 3]" in shown
    assert "parameters        574.7 MB" in shown
    assert "state            1149.3 MB" in shown
    # 256 images of 117.6 GFLOP: forward and both gradients, less that of the images.
    assert f"{30110.4 / jax.device_count():.1f} GFLOP a device" in shown


def test_errors_exit_with_2(capsys):
    assert main(["check", "vgg_e", "model.colum=E"]) == 2
    assert "did you mean model.column?" in capsys.readouterr().err
