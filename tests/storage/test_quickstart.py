"""The quickstart with its data and its run in a bucket, as programs of their own: as on a disk."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxcnn.files import read_json
from jaxcnn.paths import user_path
from jaxcnn.training.stored_run import read_run
from tests.parallel.groups import free_port
from tests.training.runs import ROOT, assert_same_state

pytestmark = pytest.mark.slow

# Two epochs of the quickstart's 20, with saves in its middle.
SHORT = (
    "--config=quickstart",
    "--config.epochs=2.0",
    "--config.checkpoint.every_epochs=0.5",
    "--config.evals=({'name':'centre','scale':56,'every_epochs':1.0},)",
    "--config.log.every_steps=5",
)
GUARD = 300.0


class Machine:
    """A machine of a pod: a home folder and a working folder of its own, and nothing shared."""

    def __init__(self, folder):
        self.home, self.cwd = folder / "home", folder / "work"
        for one in (self.home, self.cwd):
            one.mkdir(parents=True)

    def start(self, *arguments, devices=1):
        own = {"HOME": str(self.home), "JAX_NUM_CPU_DEVICES": str(devices)}
        gone = ("XDG_CACHE_HOME", "TFDS_DATA_DIR")
        environment = {k: v for k, v in os.environ.items() if k not in gone} | own
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=self.cwd, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *arguments, code=0):
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=GUARD)
        assert process.returncode == code, out
        return out


def main(machine, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcnn", *arguments],
        cwd=machine.cwd, env={**os.environ, "HOME": str(machine.home)}, text=True,
        capture_output=True, check=False, timeout=GUARD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def state_of(folder):
    return jax.device_get(read_run(user_path(folder))[2])


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """The run whose data and workdir lie on a disk."""
    folder = tmp_path_factory.mktemp("disk")
    machine = Machine(folder)
    machine.run(*SHORT, f"--workdir={folder}/run", f"--config.data.data_dir={folder}/tfds")
    return folder / "run"


@pytest.fixture
def places(bucket):
    return f"--workdir={bucket}/run", f"--config.data.data_dir={bucket}/tfds"


def test_the_run_equals_the_one_on_a_disk(on_disk, bucket, places, tmp_path):
    machine = Machine(tmp_path)
    said = machine.run(*SHORT, *places)
    assert not any(word in said for word in ("WARNING", "Error", "gcsfs")), said
    assert_same_state(state_of(bucket / "run"), state_of(on_disk))
    names = {"config.json", "run.json", "metrics.jsonl", "report.json", "curves.png", "classes.txt"}
    assert names <= {entry.name for entry in (bucket / "run").iterdir()}
    assert not any(entry.name.startswith("gs:") for entry in machine.cwd.iterdir())
    assert any(e.name.startswith("events.out.tfevents") for e in (bucket / "run").iterdir())
    # TFDS writes the keys of a record in any order, so that two preparations have other checksums.
    results = [
        [row | {"images": ""} for row in read_json(run / "report.json", advice="")["results"]]
        for run in (bucket / "run", on_disk)
    ]
    assert results[0] == results[1]


def test_commands_read_the_run_in_the_bucket(on_disk, bucket, places, tmp_path):
    machine = Machine(tmp_path)
    machine.run(*SHORT, *places)
    image = tmp_path / "digit.png"
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(image)
    run = str(bucket / "run")
    commands = (
        ["predict", f"--workdir={run}", str(image)],
        ["evaluate", run, "--protocol=ten_crops"],
    )
    for command in commands:
        here = [part.replace(run, str(on_disk)) for part in command]
        found, expected = main(machine, *command, "--json"), main(machine, *here, "--json")
        assert json.loads(found.replace(run, str(on_disk))) == json.loads(expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_from_the_bucket_on_another_machine(
    number, on_disk, bucket, places, tmp_path
):
    first = Machine(tmp_path / "first").start(*SHORT, *places)
    checkpoints, until = bucket / "run" / "checkpoints", time.time() + GUARD
    while not (checkpoints.is_dir() and any(e.name.isdigit() for e in checkpoints.iterdir())):
        assert time.time() < until
        assert first.poll() is None
        time.sleep(0.2)
    first.send_signal(number)
    first.communicate(timeout=GUARD)
    assert first.returncode == (143 if number == signal.SIGTERM else -9)
    Machine(tmp_path / "second").run(*SHORT, *places)
    assert_same_state(state_of(bucket / "run"), state_of(on_disk))


def test_two_processes_that_share_nothing_but_the_bucket(bucket, places, tmp_path):
    """They give the state of one process with two devices."""
    port = free_port()
    processes = [
        Machine(tmp_path / str(i)).start(*SHORT, *places, f"--distributed=localhost:{port},2,{i}")
        for i in range(2)
    ]
    said = [process.communicate(timeout=GUARD)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    alone, data = Machine(tmp_path / "alone"), f"--config.data.data_dir={tmp_path}/tfds"
    one = alone.start(*SHORT, data, f"--workdir={tmp_path}/run", devices=2)
    assert (one.communicate(timeout=GUARD), one.returncode)[1] == 0
    assert_same_state(state_of(bucket / "run"), state_of(tmp_path / "run"))
