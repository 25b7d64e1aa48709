"""jaxcnn evaluate, fuse and table on tiny runs of net A."""

import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn import training
from jaxcnn.cli import table
from jaxcnn.cli.main import main
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.tables import TABLES
from jaxcnn.training import Stopped, schema

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(trained_runs):
    return trained_runs


def results(folder):
    rows = json.loads((Path(folder) / "report.json").read_text())["results"]
    return {row["protocol"]: row for row in rows}


def test_a_process_prints_json_alone_on_stdout(folders):
    """Messages go to stderr; the same rows are in the report."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jaxcnn", "evaluate", f"--workdir={folders[0]}"),
            *("--protocol=dense", "--save_posteriors", "--json"),
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout) == [results(folders[0])["dense(37)"]]


def test_from_protocols_to_a_table(folders, capsys):
    """Two protocols of a run, its posteriors averaged with another run's, both runs in a paper's table."""
    dense, multi_crop = "dense(37)", "multi_crop(37->32, grid 2)"
    for folder, labels in ((folders[0], [dense, multi_crop]), (folders[1], [dense])):
        protocols = ["--protocol=dense", "--protocol=multi_crop scales=(37,) grid=2"][: len(labels)]
        command = [f"--workdir={folder}", *protocols, "--save_posteriors", "--json"]
        assert main(["evaluate", *command]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["protocol"] for row in rows] == labels
        assert {row["n"] for row in rows} == {64}
        assert [results(folder)[label] for label in labels] == rows
    files = sorted(str(p) for f in folders for p in (Path(f) / "posteriors").glob("dense_37.*"))
    assert main(["fuse", *files]) == 0
    first, second, mean = capsys.readouterr().out.splitlines()
    assert f"top-1 {results(folders[0])['dense(37)']['top1']:.2%}" in first
    assert f"top-1 {results(folders[1])['dense(37)']['top1']:.2%}" in second
    assert "mean of 2" in mean
    assert main(["table", "vgg3", *folders, "--json"]) == 0
    printed = capsys.readouterr()
    assert "compil" not in printed.err  # nothing is missing
    net_a = json.loads(printed.out)[0]
    errors = [100 * (1 - results(folder)["dense(37)"]["top1"]) for folder in folders]
    assert float(net_a["ours top-1"]) == pytest.approx(sum(errors) / 2)


def test_a_known_result_is_not_computed_again(folders, capsys):
    before = results(folders[0])["centre(37->32)"]
    assert main(["evaluate", f"--workdir={folders[0]}", "--protocol=centre"]) == 0
    shown = capsys.readouterr().out
    assert "from report.json" in shown
    assert "compil" not in shown
    assert main(["evaluate", f"--workdir={folders[0]}", "--protocol=centre", "--again"]) == 0
    assert "compiled evaluation of crops" in capsys.readouterr().out
    again = results(folders[0])["centre(37->32)"]
    # The run was evaluated on one device and now on eight: counts are exact, the sum of losses is not.
    assert again.pop("loss") == pytest.approx(before.pop("loss"), rel=1e-5)
    assert again == before


def test_one_file_fused_equals_its_report_exactly(folders, capsys):
    """Also after another evaluation that was not asked to save, and another start of the run."""
    folder = Path(folders[1])
    evaluate = ["evaluate", f"--workdir={folder}", "--protocol=centre"]

    def fused():
        (file,) = (folder / "posteriors").glob("centre*")
        capsys.readouterr()
        assert main(["fuse", str(file), "--json"]) == 0
        return json.loads(capsys.readouterr().out)[0]

    def same(row):
        return {key: row[key] for key in ("n", "top1", "top5", "loss", "split")}

    assert main([*evaluate, "--save_posteriors"]) == 0
    assert same(fused()) == same(results(folder)["centre(37->32)"])
    # One device and another size of batches round in another way.
    assert main([*evaluate, "--again", "--batch_size=8"]) == 0
    assert same(fused()) == same(results(folder)["centre(37->32)"])
    training.run(schema.read_saved_config(folder / "config.json"), folder)
    assert same(fused()) == same(results(folder)["centre(37->32)"])


def test_a_fused_file_can_be_fused_again(folders, tmp_path, capsys):
    for folder in folders:
        arguments = [f"--workdir={folder}", "--protocol=centre", "--save_posteriors"]
        assert main(["evaluate", *arguments]) == 0
    files = [str(next((Path(f) / "posteriors").glob("centre*"))) for f in folders]
    out = tmp_path / "mean.npz"
    capsys.readouterr()
    assert main(["fuse", *files, f"--out={out}", "--json"]) == 0
    mean = json.loads(capsys.readouterr().out)[-1]
    assert main(["fuse", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)[-1]
    assert (again["top1"], again["top5"], again["n"]) == (mean["top1"], mean["top5"], 64)


def test_tables_list_missing_evaluations_and_are_written(folders, tmp_path, capsys):
    assert main(["table", "vgg4", *folders, "--list"]) == 0
    shown = capsys.readouterr().out
    assert "0 of 0 evaluations are missing" in shown  # Table 4 has no net A
    assert "a0: fits no row" in shown
    assert main(["table", "vgg4", *folders, "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["table", "vgg3", folders[0], f"--out={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "no run of vgg A-LRN, S 256" in shown
    assert {p.name for p in tmp_path.iterdir()} == {"vgg3.txt", "vgg3.md", "vgg3.csv"}
    assert (tmp_path / "vgg3.txt").read_text().rstrip() in shown


def test_protocols_over_seeds(folders, capsys):
    """A row holds the mean and standard deviation over runs that differ only in their seeds."""
    assert main(["table", "protocols", *folders, "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    (row,) = [r for r in rows if (r["protocol"], r["split"]) == ("centre(37->32)", "evaluation")]
    errors = [100 * (1 - results(folder)["centre(37->32)"]["top1"]) for folder in folders]
    assert (row["net"], row["n"], row["images"]) == (
        "vgg A, width 0.0625, 32 pixels, S 37",
        "2",
        "64",
    )
    assert float(row["top-1 error"]) == pytest.approx(statistics.fmean(errors))
    assert float(row["top-1 error deviation"]) == pytest.approx(statistics.stdev(errors))


def test_the_help_names_all_tables():
    text = table.__doc__.partition("tables: ")[2].partition(";")[0]
    assert text.split(", ") == [*TABLES]


@pytest.mark.parametrize(
    ("command", "arguments", "code", "problem"),
    [
        ("evaluate", ["--workdir=nowhere", "--protocol=dense"], 1, "nowhere holds no run"),
        ("evaluate", ["--protocol=dens"], 2, "did you mean dense?"),
        (
            "evaluate",
            ["--protocol=dense scales=(30,)"],
            2,
            "is smaller than the net's images of 32",
        ),
        ("evaluate", ["--protocol=dense", "--step=7"], 1, "has no checkpoint 7; there are [0]"),
        ("evaluate", ["--protocol=dense", "model.width=2"], 2, "only data can be overridden"),
        (
            "evaluate",
            ["--protocol=dense", "data.source=synthetic:9"],
            1,
            "was trained on 4 classes",
        ),
        (
            "evaluate",
            ["--protocol=dense", "data.source=folder:no"],
            1,
            f"no folder {Path.cwd() / 'no'}",
        ),
        ("fuse", ["none.npz"], 1, f"{Path.cwd() / 'none.npz'} is missing; make it"),
        ("table", ["vgg3", "nowhere"], 1, "nowhere holds no run"),
        ("table", ["vgg3", f"--out={__file__}"], 1, "cannot make the folder"),
        ("fuse", ["none.npz", f"--out={Path(__file__).parent}"], 1, "is a folder; give a file"),
        ("fuse", [__file__], 1, "test_evaluate.py is not a readable .npz file"),
        ("fuse", [str(Path(__file__).parent)], 1, "Is a directory"),
    ],
)
def test_bad_input_is_a_line(folders, command, arguments, code, problem, capsys):
    if command == "evaluate" and "--workdir=nowhere" not in arguments:
        arguments = [f"--workdir={folders[0]}", *arguments]
    assert main([command, *arguments]) == code
    assert problem in capsys.readouterr().err


def test_a_file_cannot_be_fused_with_itself(capsys):
    assert main(["fuse", "mean.npz", "./mean.npz"]) == 2
    assert "a file is named twice" in capsys.readouterr().err


def test_a_table_has_a_row_for_each_split(folders, tmp_path, capsys):
    folder = shutil.copytree(folders[0], tmp_path / "a0")
    whole = json.loads((folder / "report.json").read_text())
    row = next(r for r in whole["results"] if r["protocol"] == "centre(37->32)")
    whole["results"].append({**row, "split": "train", "n": 256})
    (folder / "report.json").write_text(json.dumps(whole))
    assert main(["table", "protocols", str(folder), folders[1], "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = [(r["split"], r["n"], r["images"]) for r in rows if r["protocol"] == "centre(37->32)"]
    assert sorted(found) == [("evaluation", "2", "64"), ("train", "1", "256")]


def test_a_damaged_report_is_named(folders, tmp_path, capsys):
    folder = shutil.copytree(folders[0], tmp_path / "a0")
    (folder / "report.json").write_text('{"results": [')
    assert main(["evaluate", f"--workdir={folder}", "--protocol=centre"]) == 1
    assert "report.json is cut short" in capsys.readouterr().err


def test_results_are_shown_where_they_cannot_be_written(folders, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("the folder cannot be written to; copy the run elsewhere")

    monkeypatch.setattr(FinishedRun, "_check_writable", refuse)
    command = [f"--workdir={folders[0]}", "--protocol=centre scale=39"]
    assert main(["evaluate", *command]) == 0
    shown = capsys.readouterr().out
    assert "not written: the folder cannot be written to" in shown
    assert "centre(39->32)" not in results(folders[0])
    assert main(["evaluate", *command, "--save_posteriors"]) == 1  # before the work, not after it
    assert "centre(39->32)" not in capsys.readouterr().out


def test_an_unknown_table_names_the_nearest(capsys):
    assert main(["table", "vgg33"]) == 2
    assert "did you mean vgg3?" in capsys.readouterr().err


def test_a_stopped_evaluation_keeps_finished_protocols(folders, monkeypatch, capsys):
    """The first protocol is in report.json, the second is done by the same command."""
    evaluate = FinishedRun.evaluate

    def stop_at_40(self, protocol, **settings):
        if protocol.all_scales() == (40,):
            raise Stopped("SIGTERM")
        return evaluate(self, protocol, **settings)

    command = [f"--workdir={folders[1]}", "--protocol=ten_crops", "--protocol=centre scale=40"]
    with monkeypatch.context() as patch:
        patch.setattr(FinishedRun, "evaluate", stop_at_40)
        assert main(["evaluate", *command]) == 143
    assert "stopped by SIGTERM; nothing is lost" in capsys.readouterr().err
    assert "ten_crops(37->32)" in results(folders[1])
    assert main(["evaluate", *command]) == 0
    assert "centre(40->32)" in results(folders[1])
