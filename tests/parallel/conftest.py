"""Tests of the start see a machine without GPUs or TPUs, whatever this one has."""

import pytest

from jaxcnn.parallel import gpus, tpus


@pytest.fixture(autouse=True)
def no_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(tpus, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(tpus, "RETRY_SECONDS", 0.0)
