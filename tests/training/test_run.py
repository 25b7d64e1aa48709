"""Whole runs: files, exact resume, stops in every phase, and messages for bad input."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn.cli.main import main
from jaxcnn.evaluation import Forward
from jaxcnn.parallel.mesh import Placement
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.training import Diverged, Stopped, dry_run, evaluator, prefetch, run
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.workdir import WorkdirError
from tests.training.runs import (
    ROOT,
    arguments,
    assert_same_state,
    config,
    events,
    events_without_times,
    send_sigterm,
    start_main,
    state_of,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 16 steps that finished without a stop."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(config(), folder, command=["main.py", "--config=quickstart"])
    return folder


def test_a_run_compiles_two_programs_and_transfers_nothing_implicitly(
    tmp_path, capsys, monkeypatch
):
    """On eight devices: the train step and the evaluation. JAX compiles nothing after the first saved
    state."""
    compilations, seen, put = [], [], Placement.put_batch

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(seconds)

    def watched(self, batch):
        seen.append(len(compilations))
        return put(self, batch)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Placement, "put_batch", watched)
            for owner, name in ((Experiment, "lower_train"), (Forward, "lower")):
                patched.setattr(owner, name, getattr(owner, name).__wrapped__)  # lowered here
            run(config(mesh__data=0), tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    printed = capsys.readouterr().out.splitlines()
    compiled = [line.partition(" in ")[0] for line in printed if line.startswith("compiled ")]
    assert compiled == [
        "compiled the train step",
        "compiled evaluation of crops of 32 x 32",
    ]
    assert seen[0] > 0
    assert len(set(seen[-8:])) == 1, (
        seen
    )  # the last batches of the second epoch and of its evaluation
    monkeypatch.setattr(prefetch.Prefetcher, "_put_next", lambda feed: next(feed._batches))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(config(mesh__data=0), tmp_path / "implicit")


def test_a_run_writes_its_files(finished):
    names = {p.name for p in finished.iterdir()}
    assert names == {
        "config.json", "run.json", "metrics.jsonl", "checkpoints", "classes.txt", "report.json", "curves.png",
        "data.npz",
    }  # fmt: skip
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (finished / "classes.txt").read_text().split() == [f"class_00{i}" for i in range(4)]
    saved = json.loads((finished / "config.json").read_text())
    assert (saved["model"]["num_classes"], saved["batch_size"]) == (4, 32)
    (first,) = json.loads((finished / "run.json").read_text())["starts"]
    assert first["command"] == ["main.py", "--config=quickstart"]
    assert first["step"] == 0
    assert first["versions"]["jax"] == jax.__version__
    assert len(first["devices"]) == 8
    assert sorted(int(p.name) for p in (finished / "checkpoints").iterdir()) == [8, 16]


def test_events_and_report_agree(finished):
    rows = events(finished)
    train = [e for e in rows if e["kind"] == "train"]
    assert [e["step"] for e in train] == [3, 6, 9, 12, 15, 16]
    assert set(train[0]) == {
        "kind", "step", "epoch", "loss", "top1", "top5", "learning_rate", "images_per_second", "data_wait",
        "seconds",
    }  # fmt: skip
    assert all(0 <= e["data_wait"] <= 1 and e["images_per_second"] > 0 for e in train)
    evals = [e for e in rows if e["kind"] == "eval"]
    assert [e["step"] for e in evals] == [8, 16]
    report = json.loads((finished / "report.json").read_text())
    (result,) = report["results"]
    assert result["n"] == 64
    assert {k: result[k] for k in ("protocol", "split", "n", "top1", "top5", "loss", "step")} == {
        k: evals[-1][k] for k in ("protocol", "split", "n", "top1", "top5", "loss", "step")
    }
    assert result["protocol"] == "centre(32->32)"
    assert report["step"] == 16
    assert report["parameters"] == sum(x.size for x in jax.tree.leaves(state_of(finished).params))


def test_the_loss_falls(finished):
    losses = [e["loss"] for e in events(finished) if e["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


def test_a_finished_run_prints_its_result_again(finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    report = run(config(), finished)
    assert (finished / "metrics.jsonl").read_bytes() == before
    shown = capsys.readouterr().out
    assert "resumed at step 16" in shown
    assert f"top-1 {report['results'][0]['top1']:.2%}" in shown
    assert "compil" not in shown


def test_train_prints_its_results_as_json(finished, capsys):
    command = [*arguments(mesh__data=1, epochs=2), f"--workdir={finished}"]
    assert main(["train", *command, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((finished / "report.json").read_text())["results"]
    assert "resumed at step 16" in shown.err


def test_a_protocol_that_the_report_lacks_is_evaluated(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    rows = "({'name':'centre','scale':32},{'name':'centre','scale':40})"
    report = run(config(evals=rows, epochs=0), folder)
    assert [r["protocol"] for r in report["results"]] == ["centre(32->32)", "centre(40->32)"]
    assert {r["step"] for r in report["results"]} == {16}


@pytest.mark.parametrize(
    ("where", "at", "saved"),
    [
        pytest.param("train", 1, 1, marks=pytest.mark.slow),
        ("train", 13, 13),
        ("evaluation", 40, 8),
        pytest.param("compile", 0, 0, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_in_any_phase_resumes_to_the_same_bits(
    finished, tmp_path, monkeypatch, where, at, saved
):
    """n steps, a stop, then m steps equal n + m steps: the state and every logged number."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        send_sigterm(patch, where, at)
        with pytest.raises(Stopped, match="SIGTERM"):
            run(config(), folder)
    assert int(state_of(folder).step) == saved
    run(config(), folder)
    assert_same_state(state_of(folder), state_of(finished))
    assert events_without_times(folder) == events_without_times(finished)
    starts = json.loads((folder / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, saved]


def test_a_stop_between_protocols_keeps_finished_results(tmp_path, monkeypatch):
    """Two protocols at the end: the first is evaluated once, and the report holds its result."""
    rows = "({'name':'centre','scale':32,'every_epochs':0.0},{'name':'dense','scales':(32,)})"
    settings = config(epochs=0.25, evals=rows)
    with monkeypatch.context() as patch:
        send_sigterm(patch, "evaluation", 70)  # the first protocol draws 65 times
        with pytest.raises(Stopped):
            run(settings, tmp_path)
    report = run(settings, tmp_path)
    evaluated = [e["protocol"] for e in events(tmp_path) if e["kind"] == "eval"]
    assert evaluated == ["centre(32->32)", "dense(32)"]
    assert [row["protocol"] for row in report["results"]] == evaluated


def test_a_finished_run_continues_with_more_epochs(tmp_path, finished):
    folder = tmp_path / "run"
    run(config(epochs=1), folder)
    report = run(config(), folder)
    assert report["step"] == 16
    assert_same_state(state_of(folder), state_of(finished))


def test_held_out_images_choose_the_best_checkpoint(tmp_path):
    folder = tmp_path / "run"
    rows = "({'name':'centre','scale':32,'every_epochs':0.0},)"
    settings = {"data__held_out": 64, "epochs": 3, "schedule__rate": 0.005, "evals": rows}
    run(config(**settings, checkpoint__keep=1), folder)
    held = {
        e["step"]: e["top1"]
        for e in events(folder)
        if e["kind"] == "eval" and e["split"] == "held_out"
    }
    assert all(e["n"] == 64 for e in events(folder) if e["kind"] == "eval")
    kept = {int(p.name) for p in (folder / "checkpoints").iterdir()}
    assert kept <= held.keys()
    assert max(held) in kept
    assert len(kept) <= 2
    assert max(held[s] for s in kept) == max(held.values())


def test_without_a_readable_checkpoint_nothing_is_changed(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    for file in (folder / "checkpoints").rglob("*"):
        if file.is_file() and "state" in file.parts and "metadata" not in file.name.lower():
            file.unlink()
    for _ in range(2):  # the second call fails in the same way and starts no new run
        with pytest.raises(
            CheckpointError, match=r"(?s)no checkpoint.*step 16.*step 8.*Nothing was changed"
        ):
            run(config(), folder)
    assert events(folder) == events(finished)


def test_divergence_leaves_no_trace_in_checkpoints(tmp_path):
    with pytest.raises(
        Diverged, match=r"not finite.*The step was not applied(?s:.*)schedule.rate="
    ):
        run(config(schedule__rate=1e9), tmp_path / "run")
    assert not any((tmp_path / "run" / "checkpoints").iterdir())


def test_a_run_resumes_from_the_previous_checkpoint_if_the_newest_is_corrupt(
    finished, tmp_path, capfd
):
    """A flipped bit, which Orbax does not notice. It is said after the header, where it is read."""
    folder = shutil.copytree(finished, tmp_path / "run")
    values = (folder / "checkpoints" / "16" / "state" / "ocdbt.process_0" / "d").iterdir()
    file = max(values, key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    for read in (jaxcnn.load, FinishedRun):  # these choose no other step
        with pytest.raises(CheckpointError, match=r"(?s)step 16: damaged: .*--step=8 "):
            _ = read(folder).params
    assert jaxcnn.load(folder, step=8).step == 8
    run(config(), folder)
    shown = capfd.readouterr()
    after = shown.out.partition("workdir ")[2].splitlines()
    said = next(line for line in after if line.startswith("WARNING"))
    assert "step 16 cannot be read (damaged: " in said
    assert "resuming from the previous one, step 8" in said
    assert after.index(said) < 10
    assert "Traceback" not in shown.err
    assert_same_state(state_of(folder), state_of(finished))


def test_a_checkpoint_of_another_net_shows_a_short_diff(finished):
    wide = build_experiment(with_classes(config(model__width=0.125), 4)).abstract_state()
    checkpoints = Checkpoints(finished / "checkpoints", read_only=True)
    with contextlib.closing(checkpoints), pytest.raises(CheckpointError) as caught:
        checkpoints.restore(wide)
    text = str(caught.value)
    assert (
        "params/conv1_1/kernel: checkpoint has float32[3, 3, 3, 4], the config's net needs" in text
    )
    assert len(text.splitlines()) < 15


def test_another_config_in_the_same_workdir_is_an_error(finished):
    with pytest.raises(WorkdirError, match=r"(?s)another config.*optim.momentum: 0.9 -> 0.5"):
        run(config(optim__momentum=0.5), finished)


def test_load_returns_the_trained_net(finished, tmp_path):
    loaded = jaxcnn.load(finished)
    assert (loaded.step, loaded.classes[1], loaded.net.num_classes) == (16, "class_001", 4)
    data = evaluator.open_splits(loaded.config["data"])
    (tmp_path / "0.jpg").write_bytes(data.evaluation.read(0)[0])
    view = loaded.preprocess(tmp_path / "0.jpg")
    assert (view.shape, view.dtype) == ((1, 32, 32, 3), np.uint8)
    posterior = loaded.probabilities(view)
    assert float(posterior.sum()) == pytest.approx(1.0, abs=1e-5)
    right = 0
    for i in range(64):
        (tmp_path / "x.jpg").write_bytes(data.evaluation.read(i)[0])
        right += int(
            loaded.probabilities(loaded.preprocess(tmp_path / "x.jpg")).argmax()
            == data.evaluation.read(i)[1]
        )
    assert right / 64 == json.loads((finished / "report.json").read_text())["results"][0]["top1"]
    with pytest.raises(CheckpointError, match=r"no checkpoint 5; there are \[8, 16\]"):
        jaxcnn.load(finished, step=5)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        jaxcnn.load(tmp_path)


WITHOUT_TENSORFLOW = """
import sys
import importlib.machinery
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise ImportError("must not be imported here: " + spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Refuse())
import jaxcnn, numpy as np
run = jaxcnn.load(sys.argv[1])
print(run.probabilities(np.zeros((2, 32, 32, 3), np.uint8)).shape)
"""


def test_load_and_forward_work_without_tensorflow(finished):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(finished)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(2, 4)\n", done.stderr


def test_main_exits_with_143_on_a_signal_and_prints_how_to_resume(tmp_path):
    process = start_main(*arguments(epochs=2000), "--workdir=here", cwd=tmp_path)
    shown = ""
    while "  loss " not in shown:
        shown += process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    shown += process.communicate(timeout=300)[0]
    assert process.returncode == 143, shown
    assert (
        f"stopped by SIGINT; the state is saved in {tmp_path / 'here'}. To go on: jaxcnn train"
        in shown
    )
    assert [
        p.name for p in (tmp_path / "here" / "checkpoints").iterdir()
    ]  # a relative workdir is fine


def test_a_healthy_run_prints_nothing_to_stderr(tmp_path):
    """TensorFlow is imported for TensorBoard's events; its notices stay off the screen."""
    typed = arguments(epochs=0, evals="()", log__tensorboard="true")
    done = subprocess.run(
        [sys.executable, "main.py", *typed, f"--workdir={tmp_path}"],
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_main_exits_with_1_on_a_full_disk(tmp_path):
    """A limit on file size fails the same write as a full disk; the message names that limit instead."""
    process = start_main(*arguments(epochs=1), f"--workdir={tmp_path / 'run'}", kilobytes="100")
    shown = process.communicate(timeout=300)[0]
    assert process.returncode == 1, shown
    assert "could not be written" in shown
    assert "File too large" in shown
    assert "raise it (ulimit -f)" in shown


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--config.optim.momntum=1"], 2, "unknown key optim.momntum; did you mean optim.momentum?"),
        (["--config=vgg_x"], 2, "no config file 'vgg_x'; did you mean"),
        (["--config.data.source=tfds:imagenet2012", "--config.data.data_dir=no"], 1, "jaxcnn prepare"),
        (["--config.data.source=folder:nowhere"], 1, "/nowhere; expected PATH/train/CLASS"),
        (["--config.batch_size=512"], 1, "only 256 training images"),
        (["--config.batch_size=30"], 1, "the nearest that does: --config.batch_size=32"),
        (["--config.model.num_classes=7"], 2, "synthetic:4 has 4 classes"),
        (["--config.schedule.rate=1e9"], 3, "The step was not applied"),
    ],
)  # fmt: skip
def test_errors_exit_with_their_code_and_message(
    extra, code, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments(), *extra]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert ("compiling" in shown.out) == (code == 3)  # other errors come before the slow part


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--confg=vgg_e"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --confg=vgg_e" in capsys.readouterr().err


def test_dry_run_prints_memory_and_time_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    real = dry_run.dry_run
    monkeypatch.setattr(dry_run, "dry_run", lambda *a: results.append(real(*a)) or results[-1])
    assert main(["train", *arguments(mesh__data=1), "--dry_run"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "dry run:",
        "one train step",
        "one evaluation batch",
        "GB per device",
        "peak memory",
    ):
        assert part in shown
    assert not list(tmp_path.iterdir())
    # the same measurement as JSON, not a second compilation
    monkeypatch.setattr(dry_run, "dry_run", lambda _: results[0])
    assert main(["train", *arguments(mesh__data=1), "--dry_run", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["batch_size"] == 32
    assert all(figures[f"{name}_seconds"] > 0 for name in ("train_step", "evaluation_batch"))
    assert figures["train_step_bytes_per_device"] > 1e6
    assert not list(tmp_path.iterdir())


def test_print_config_prints_values_and_their_origin(capsys):
    assert main(["train", *arguments(), "--print_config"]) == 0
    assert "model.width = 0.0625  # command line" in capsys.readouterr().out
