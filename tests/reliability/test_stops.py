"""Stops while a read hangs, in every phase of a run and in other commands; runs that lose their terminal."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxcnn.training import run
from jaxcnn.training.stored_run import saved_steps
from tests import forked
from tests.parallel.groups import LaunchedGroup
from tests.training.runs import arguments, assert_same_state, config, state_of
from tests.training.stalled import stalled_in_process_1, stalled_main

pytestmark = pytest.mark.slow

# One epoch of 6 updates with a save in its middle, held-out images and statistics of the data.
SETTINGS = {
    "epochs": 1, "mesh__data": 1, "data__threads": 1, "data__held_out": 64, "augment__mean": "rgb",
    "augment__statistics": "auto", "checkpoint__every_epochs": 0.5,
}  # fmt: skip
# The updates done by phase. The first evaluation is of held-out images, the second of the evaluation split.
PHASES = {
    "open": 0, "fingerprint": 0, "statistics": 0, "compile": 0, "first batch": 0, "training": 3,
    "first evaluation": 3, "save": 3, "second evaluation": 6,
}  # fmt: skip
GUARD = 120.0


def ended(process, seconds=GUARD):
    """The exit code; fails if the process hangs."""
    process.join(seconds)
    code = process.exitcode
    process.kill()
    assert code is not None, "still alive"
    return code


def start(tmp_path, phase, name, *command):
    return forked.start(
        stalled_main, command, out=tmp_path / "out", err=tmp_path / "err",
        environment={"STALL": phase, "SIGNAL": name},
    )  # fmt: skip


def seconds_since_stalled(out):
    return time.time() - float(re.findall(r"stalled at ([\d.]+)", out.read_text())[-1])


def whole_run(tmp_path, folder):
    """The last state of the run in `folder`, which is resumed or started, without a stop."""
    command = ["train", *arguments(**SETTINGS), f"--workdir={folder}"]
    assert ended(start(tmp_path, "none", "", *command)) == 0, (tmp_path / "err").read_text()
    return state_of(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return whole_run(folder, folder / "run")


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
@pytest.mark.parametrize("phase", PHASES)
def test_stops_in_every_phase_with_a_hanging_reader(phase, name, tmp_path, undisturbed):
    """Exit code 143, the state saved; the same command resumes to the same bits."""
    folder = tmp_path / "run"
    command = ["train", *arguments(**SETTINGS), f"--workdir={folder}"]
    code = ended(start(tmp_path, phase, name, *command))
    print(f"\n{phase} {name}: {seconds_since_stalled(tmp_path / 'out'):.1f} s from the signal")
    said = (tmp_path / "err").read_text()
    assert code == 143, said
    assert f"stopped by SIG{name}" in said
    assert "Traceback" not in said
    steps = saved_steps(folder)
    assert (steps[-1] if steps else 0) == PHASES[phase]
    assert_same_state(whole_run(tmp_path, folder), undisturbed)


# Command: the phase in which a read hangs, a signal, and the exit code. Commands that keep nothing handle
# Ctrl-C only, and other signals end them at once.
COMMANDS = {
    "evaluate --workdir=RUN --protocol=centre --again": ("finished run", "TERM", 143),
    "figures --workdir=RUN --only=guesses": ("finished run", "HUP", 143),
    "predict --workdir=RUN image.jpg": ("predict", "USR1", 143),
    "statistics alexnet data.source=synthetic:4 --out=RUN/s.npz": ("statistics", "INT", 130),
    "prepare synthetic:4 --pack --shorter_side=32 --out=RUN/pack": ("packing", "INT", 130),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run(config(epochs=0.25), folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_end_with_a_hanging_reader(command, tmp_path, trained):
    phase, name, code = COMMANDS[command]
    words = command.replace("RUN", str(trained)).split()
    assert ended(start(tmp_path, phase, name, *words)) == code, (tmp_path / "err").read_text()
    print(f"\n{words[0]} {name}: {seconds_since_stalled(tmp_path / 'out'):.1f} s from the signal")
    assert "Traceback" not in (tmp_path / "err").read_text()


GROUP = {"epochs": 1, "batch_size": 32, "data__threads": 1}


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", ["open", "training", "first evaluation"])
def test_processes_stop_together_if_a_reader_of_one_hangs(phase, victim, tmp_path):
    """Process 1 hangs, and process 0 or 1 gets the signal. Both save the same step."""
    folder = tmp_path / "run"
    command = ["train", *arguments(**GROUP), f"--workdir={folder}"]
    with LaunchedGroup(
        tmp_path / "group", 2, 1, *command, main=stalled_in_process_1, STALL=phase, SIGNAL=""
    ) as group:
        until = time.time() + GUARD
        while "stalled at" not in group.out(1) and time.time() < until:
            assert not group.poll(), group.output()
            time.sleep(0.05)
        time.sleep(1.0)  # process 0 waits for process 1 by now
        os.kill(group.processes[victim].pid, signal.SIGTERM)
        struck = time.time()
        assert group.wait(GUARD) == [143, 143], group.output()
        print(f"\n{phase}, signal to {victim}: {max(group.ended.values()) - struck:.1f} s")
    assert "stopped by SIGTERM" in group.err(0)
    steps = saved_steps(folder)
    assert (steps[-1] if steps else 0) == {"open": 0, "training": 6, "first evaluation": 8}[phase]


TERMINALS = {
    "a pipe without a reader": "{} | true",
    "both pipes without a reader": "{} 2>&1 | true",
    "a full disk": "{} >/dev/full 2>/dev/full",
    "closed": "{} >&- 2>&- <&-",
}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_run_goes_on_without_its_terminal(terminal, tmp_path):
    script = "set -o pipefail; " + TERMINALS[terminal].format('"$0" main.py "$@"')
    typed = [*arguments(epochs=2, log__tensorboard="true"), f"--workdir={tmp_path}"]
    done = subprocess.run(["bash", "-c", script, sys.executable, *typed], check=False, timeout=300)
    assert done.returncode == 0
    assert json.loads((tmp_path / "report.json").read_text())["step"] == 16


@pytest.mark.parametrize(("trap", "epochs", "code"), [('trap "" HUP', 4, 0), ("true", 2000, 143)])
def test_a_terminal_that_hangs_up(trap, epochs, code, tmp_path):
    """The kernel sends SIGHUP, and writing to the terminal is an error from then on. Where the signal is
    ignored, as by nohup, the run goes on; else it saves its state and ends."""
    mine, theirs = os.openpty()
    typed = [*arguments(epochs=epochs), f"--workdir={tmp_path}"]
    script = trap + '; exec "$0" main.py "$@"'
    process = subprocess.Popen(
        ["setsid", "--ctty", "bash", "-c", script, sys.executable, *typed],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b" loss " not in shown:
        shown += os.read(mine, 1000)
    os.close(mine)
    assert process.wait(300) == code
    assert saved_steps(tmp_path)
    assert (tmp_path / "report.json").exists() == (code == 0)
