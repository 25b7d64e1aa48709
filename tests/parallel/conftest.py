"""Hides this machine's GPUs and TPUs from the tests."""

import pytest

from jaxcnn.parallel import accelerators


@pytest.fixture(autouse=True)
def no_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerators, "DEVICE_FILES", tmp_path)
