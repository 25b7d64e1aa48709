"""jaxcnn compare: the command line, and processes that share the runs of a comparison."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxcnn.cli.main import main
from tests.research.made import TINY, finish, plan

ROOT = Path(__file__).parent.parent.parent
KEYS = [f"--config.{key}={value}" for key, value in TINY.items()]
LONGER = "--config.epochs=6"
VARIANTS = ["--variant=base", "--variant=more decay: optim.weight_decay=5e-3"]


def command(out, *more):
    return ["configs/vgg_a.py", f"--out={out}", "--seeds=0,1", *VARIANTS, *KEYS, *more]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def start(tmp_path):
    """Starts the tool as a user does, on one device, its output in a file."""
    started = []

    def begin():
        with (tmp_path / f"log_{len(started)}.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "jaxcnn", "compare", *command(tmp_path / "out", LONGER)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def starts(folder):
    """The steps at which a run started and resumed."""
    path = folder / "run.json"
    return [s["step"] for s in json.loads(path.read_text())["starts"]] if path.exists() else []


def saved(folder):
    """The steps of the complete checkpoints."""
    names = (path.name for path in folder.glob("checkpoints/*"))
    return sorted(int(name) for name in names if name.isdigit())


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError


def half_done(out, pid):
    """The folder of an unfinished run that `pid` has locked and saved."""
    for holder in out.glob("vgg_a/*/*/holder.json"):
        try:
            mine = json.loads(holder.read_text())["pid"] == pid
        except ValueError:
            continue
        if mine and saved(holder.parent) and not (holder.parent / "report.json").exists():
            return holder.parent
    return None


@pytest.mark.slow  # a minute
def test_two_processes_share_the_runs_and_one_is_killed(tmp_path, start):
    """One is killed in the middle of a run, the other stopped by a signal; then both start again."""
    out = tmp_path / "out"
    first, second = start(), start()
    victim = wait_until(lambda: half_done(out, first.pid))
    first.kill()
    first.wait()
    wait_until(lambda: half_done(out, second.pid))
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 143
    log = (tmp_path / "log_1.txt").read_text()
    assert "what was trained is saved. To go on: jaxcnn compare configs/vgg_a.py" in log

    folders = [out / "vgg_a" / v / f"seed_{n}" for v in ("base", "more_decay") for n in (0, 1)]
    over = {folder: (folder / "report.json").exists() for folder in folders}
    begun = {folder: starts(folder) for folder in folders}
    kept = {folder: max(saved(folder), default=0) for folder in folders}
    assert not over[victim]
    assert kept[victim] > 0

    again = start(), start()
    assert [process.wait(180) for process in again] == [0, 0]

    assert sorted(out.glob("vgg_a/*/seed_*")) == folders
    for folder in folders:
        # Finished runs are not started again; the others resume once, from their newest checkpoint.
        assert starts(folder) == begun[folder] + ([] if over[folder] else [kept[folder]])
        events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [event["step"] for event in events if event["kind"] == "train"]
        assert steps == list(range(4, 49, 4))  # every step once, in one run
        assert json.loads((folder / "report.json").read_text())["step"] == 48
    logs = [(tmp_path / f"log_{i}.txt").read_text() for i in (2, 3)]
    for text in logs:  # both waited for each other and wrote the complete table
        base, other = (
            line for line in text.splitlines() if line.startswith(("base ", "more decay "))
        )
        assert base.split()[4] == "2"
        assert other.split()[5] == "2"
        assert "points of top-1 against base" in text
    assert (out / "vgg_a" / "curves.png").exists()
    assert any((out / "vgg_a").glob("table.*"))


def test_list_computes_nothing(tmp_path, capsys):
    assert main(["compare", *command(tmp_path / "out", "--list")]) == 0
    shown = capsys.readouterr().out
    assert "vgg_a: more decay, seed 1  to do" in shown
    assert "4 runs: 4 to do" in shown
    assert main(["compare", *command(tmp_path / "out", "--list", "--json")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[3] == {
        "run": "vgg_a: more decay, seed 1",
        "state": "to do",
        "steps": rows[0]["steps"],
        "pid": None,
        "workdir": str(tmp_path / "out" / "vgg_a" / "more_decay" / "seed_1"),
    }
    assert not (tmp_path / "out").exists()


def test_a_complete_comparison_is_printed_and_published(tmp_path, capsys):
    variants = {"base": {}, "more decay": {"optim.weight_decay": 5e-3}}
    made = plan(tmp_path / "out", name="vgg_a", variants=variants)
    for run, top1 in zip(made.runs(), (0.5, 0.25, 0.625, 0.375), strict=True):
        finish(run, top1)
    assert main(["compare", *command(tmp_path / "out", f"--publish={tmp_path / 'results'}")]) == 0
    shown = capsys.readouterr().out
    assert "more decay: -25.00 ± 12.50 points of top-1 against base: lower." in shown
    assert f"published in {tmp_path / 'results' / 'vgg_a'}" in shown
    assert (tmp_path / "results" / "vgg_a" / "base" / "seed_1" / "report.json").exists()
    assert (
        main(["compare", *command(tmp_path / "out", f"--publish={tmp_path / 'results'}", "--json")])
        == 0
    )
    result, shown = capsys.readouterr()
    assert "points of top-1 against base" in shown
    result = json.loads(result)
    assert result["errors"] == {}
    assert result["published"] == [str(tmp_path / "results" / "vgg_a")]
    (found,) = result["comparisons"]
    assert (found["name"], found["folder"]) == ("vgg_a", str(tmp_path / "out" / "vgg_a"))
    assert [(row["variant"], row["n"]) for row in found["rows"]] == [("base", 2), ("more decay", 2)]
    assert [row["values"] for row in found["rows"]] == [[50.0, 62.5], [25.0, 37.5]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cifar10"], "unknown comparison 'nosuch' (valid: "),
        (["cifar10", "--variant=base"], "configs/cifar10.py is a config"),
        (["cifar10", "--grid=schedule.rate=1,2"], "configs/cifar10.py is a config"),
        (["configs/cifar10.py"], "configs/cifar10.py is a config"),
        (["configs/comparisons/cifar10.py"], "unknown comparison 'nosuch' (valid: "),
        (["vgg_b"], "configs/vgg_b.py is a config"),
    ],
)
def test_a_bare_name_means_comparisons_unless_variants_are_given(given, message, tmp_path, capsys):
    """The message about --only says which file was found."""
    assert main(["compare", *given, f"--out={tmp_path / 'out'}", "--only=nosuch"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--variant=worse: optim.momntum=1"],
            "vgg_a, worse: unknown key optim.momntum; did you mean",
        ),
        (["--variant=base: optim.momentum=0.5"], "two variants are called 'base'"),
        (["--variant=optim.momentum=0.5"], "has no name; write --variant 'NAME: KEY=VALUE'"),
        (["--variant=worse: optim.momentum"], "needs a value: optim.momentum=VALUE"),
        (["--budget=hours"], "budget must be one of epochs, macs"),
        (["--grid=schedule.rat=0.1,0.2"], "unknown key schedule.rat; did you mean schedule.rate?"),
        (["--only=lrn"], "--only needs a file of comparisons"),
        (["--config.seed=3"], "overrides may not set seed"),
    ],
)
def test_usage_errors_exit_with_2_before_anything_is_written(more, message, tmp_path, capsys):
    assert main(["compare", *command(tmp_path / "out", *more)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_seeds_are_numbers(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", *command(tmp_path / "out", "--seeds=0,one")])
    assert stop.value.code == 2
    assert "--seeds: expected numbers such as 3,17; got '0,one'" in capsys.readouterr().err


def test_files_of_comparisons(tmp_path, capsys):
    path = tmp_path / "mine.py"
    content = {
        "base": "vgg_a",
        "variants": {"base": {}, "B": {"model.column": "B"}},
        "overrides": TINY,
    }
    path.write_text(
        f"def get_comparisons():\n    return {{'depth': {content!r}, 'same': {content!r}}}\n"
    )
    arguments = [str(path), f"--out={tmp_path / 'out'}", "--list"]
    assert main(["compare", *arguments, "--only=depth", "--seeds=4", "--config.batch_size=64"]) == 0
    shown = capsys.readouterr().out
    assert "2 runs: 2 to do" in shown
    assert shown.count(" 12 ") == 2  # steps: the override is of all variants
    assert main(["compare", *arguments, "--only=dept"]) == 2
    assert (
        "unknown comparison 'dept'; did you mean depth? (valid: depth, same)"
        in capsys.readouterr().err
    )
    assert main(["compare", *arguments, "--variant=x"]) == 2
    assert "lists its own variants" in capsys.readouterr().err
    path.write_text(
        "def get_comparisons():\n    return {'a': {'base': 'vgg_a'}, 'b': {'seeds': 1}}\n"
    )
    assert main(["compare", *arguments]) == 2
    shown = capsys.readouterr().err
    assert "a: missing key variants" in shown
    assert "b: missing key base" in shown
    path.write_text("def get_comparisons():\n    return []\n")
    assert main(["compare", *arguments]) == 2
    assert "get_comparisons() must return a dict of comparisons by name" in capsys.readouterr().err


def test_out_of_another_comparison_exits_with_1(tmp_path, capsys):
    variants = {"base": {}, "more decay": {"optim.weight_decay": 5e-3}}
    made = plan(tmp_path / "out", name="vgg_a", variants=variants)
    finish(made.runs()[0])
    assert main(["compare", *command(tmp_path / "out", "--config.optim.momentum=0.5")]) == 1
    shown = capsys.readouterr().err
    assert f"{made.runs()[0].folder} holds another run:" in shown
    assert "optim.momentum: 0.9 -> 0.5" in shown
    assert "use another --out" in shown


def test_missing_data_exits_with_1_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *command(tmp_path / "out", "--config.data.source=folder:nowhere")]) == 1
    assert f"no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
