"""`jaxcnn bench input` on a folder of small images."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from jaxcnn.benchmarks import input_speed
from jaxcnn.cli.main import main


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for split, count in (("train", 4), ("val", 1)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.jpg")
    return tmp_path


def measured(folder, capsys, *options):
    source = f"--source=folder:{folder}"
    code = main(["bench", "input", source, "--batch=4", "--repeats=1", "--json", *options])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_input_and_bare_decoding_are_measured(folder, capsys, monkeypatch):
    seen = []
    decoder = types.SimpleNamespace(decode_jpeg=lambda data, space: seen.append((data, space)))
    monkeypatch.setitem(sys.modules, "simplejpeg", decoder)
    code, rows, _ = measured(folder, capsys)
    assert code == 0
    assert [row["what"].split()[1] for row in rows] == [
        f"{name}," for name in input_speed.SAMPLINGS
    ]
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["share_of_bare_decoding"] > 0
        assert row["ratio"] == pytest.approx(row["images_per_second"] / row["bound"], rel=1e-2)
    # One warm-up and one timing per sampling; every image equally often.
    files = {path.read_bytes() for path in folder.glob("train/*/*.jpg")}
    assert {data for data, _ in seen} == files
    assert len(seen) == 4 * input_speed.PASSES * 8


def test_missing_peers_are_reported_after_the_measurements(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    code, rows, err = measured(folder, capsys, "--sampling=random_crop_in_square", "--peer")
    assert code == 1
    (row,) = rows
    assert row["images_per_second"] > 0
    assert (row["bound"], row["peer"], row["ratio"]) == (None, "", None)
    assert "simplejpeg" in err
    assert "torch" in err
    assert "pip install" in err


def test_the_first_batches_are_not_timed(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(input_speed.time, "perf_counter", lambda: float(next(clock)))
    seen = []

    def batches():
        while True:
            seen.append(next(clock))
            yield

    seconds = input_speed.steady_seconds(batches(), 5)
    assert seconds == 6 / 5  # one tick for each batch, and one to read the clock
    assert len(seen) == input_speed.AHEAD + 5
