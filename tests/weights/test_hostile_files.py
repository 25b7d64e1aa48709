"""Damaged weights files: an error that names the file, or the right arrays, in little memory."""

import json
import subprocess
import sys

import pytest

from jaxcnn.weights.formats import FORMATS
from tests.weights.fuzz import CHECKED, SAMPLES, Sample, mutant

# TensorFlow takes seconds to import; the others are like one that is tested.
SLOW = {
    *CHECKED, "caffemodel", "caffemodel unpacked", "keras_h5 weights", "keras_zip", "matconvnet", "npz",
    "npz compressed",
}  # fmt: skip
# Only the text at the file's begin is not under a checksum.
FEW = {"matconvnet compressed": 50}


def test_every_format_has_a_sample():
    with_weights = {name for name, row in FORMATS.items() if row.title}
    assert {name.split()[0] for name in SAMPLES} == with_weights


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in SAMPLES],
)
def test_forty_mutants(name, tmp_path):
    sample = Sample(name, tmp_path)
    assert sample.arrays
    read = [sample.read_mutant(f"0-{number}") for number in range(40)]
    assert 0 < sum(read) < 40 or name in CHECKED


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_two_thousand_mutants_with_limited_memory(name, tmp_path):
    command = [sys.executable, "-m", "tests.weights.fuzz", name, "1", "2000", str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    counts = json.loads(child.stdout)
    assert counts["read"] + counts["refused"] == 2000
    assert min(counts.values()) > FEW.get(name, 100) or name in CHECKED, counts


def test_mutants_are_damaged_in_many_ways():
    data = bytes(range(256)) * 8
    mutants = [mutant(data, seed) for seed in range(200)]
    assert mutants[:5] == [mutant(data, seed) for seed in range(5)]
    assert len(set(mutants)) > 190
    assert data not in mutants
    assert any(len(m) < len(data) // 2 for m in mutants)
    assert any(len(m) > len(data) for m in mutants)
