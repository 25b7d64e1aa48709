"""A long run holds its memory, its open files and its threads constant."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.runs import ROOT, arguments

STEPS, SAVES = 8000, 160


def _sample(process, folder):
    """(step, resident kB, open files, threads) of a process, or None before its first step and at its end."""
    place = Path("/proc") / str(process.pid)
    try:
        events = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        complete = [line for line in events[-2:] if line.endswith(b"\n")]
        status = dict(
            line.split(":", 1)
            for line in (place / "status").read_text().splitlines()
            if ":" in line
        )
        files = len(os.listdir(place / "fd"))
        memory = int(status["VmRSS"].split()[0])
        return json.loads(complete[-1])["step"], memory, files, int(status["Threads"])
    except (OSError, IndexError, KeyError):
        return None


@pytest.mark.slow
def test_memory_files_and_threads_stay_constant(tmp_path):
    """8,000 steps of 32 images, 160 saves and 8 evaluations. Measured from outside, four times a second."""
    folder = tmp_path / "run"
    length = arguments(
        epochs=STEPS / 8,
        checkpoint__every_epochs=STEPS / SAVES / 8,
        evals="({'name':'centre','scale':32,'every_epochs':125.0},)",
        log__every_steps=20,
    )
    samples = []
    with (tmp_path / "printed").open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *length, f"--workdir={folder}"],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        )
        while process.poll() is None:
            sample = _sample(process, folder)
            if sample is not None and 0 < sample[0] < STEPS:
                samples.append(sample)
            time.sleep(0.25)
    assert process.returncode == 0, (tmp_path / "printed").read_text()[-2000:]
    quarters = [
        [s for s in samples if STEPS * i // 4 <= s[0] < STEPS * (i + 1) // 4] for i in range(4)
    ]
    assert min(map(len, quarters)) >= 20
    memory, files, threads = (
        [statistics.median(s[i] for s in quarter) for quarter in quarters] for i in (1, 2, 3)
    )
    print(f"memory by quarter {memory} kB, files {files}, threads {threads}")
    assert memory[3] <= 1.02 * memory[2]
    assert files[1] == files[2] == files[3]
    assert threads[1] == threads[2] == threads[3]
