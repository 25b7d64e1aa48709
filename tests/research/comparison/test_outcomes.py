"""Tables, curves and published files, from runs whose files were written by hand."""

import csv
import json
import math

import numpy as np
import pytest

from jaxcnn.research.comparison.curves import curve_kind, draw_comparison, mean_over_seeds
from jaxcnn.research.comparison.execute import compare, overview, publish
from jaxcnn.research.comparison.outcomes import (
    outcomes,
    provenance,
    sentences,
    table_header,
    table_rows,
    write_tables,
)
from jaxcnn.training.console import Console
from jaxcnn.training.signals import StopSignal
from jaxcnn.training.workdir import WorkdirError
from tests.research.made import diverge, finish, plan


@pytest.fixture
def complete(tmp_path):
    """base at 50 and 52 %, column B at 56 and 60 %."""
    made = plan(tmp_path / "out")
    for run, top1 in zip(made.runs(), (0.50, 0.56, 0.52, 0.60), strict=True):
        finish(run, top1)
    return made


def test_table_has_means_deviations_and_speeds(complete):
    """Deviations sqrt(2) and 2 sqrt(2); difference 7 against sqrt(10) = 3.16."""
    found = outcomes(complete)
    assert table_rows(complete, found) == [
        ["base", "51.00 ± 1.41", "2", "3", "111,548", f"{complete.cells[0].macs:,}", "150"],
        ["column B", "58.00 ± 2.83", "2", "3", "112,280", f"{complete.cells[1].macs:,}", "150"],
    ]
    assert sentences(complete, found) == [
        "column B: +7.00 ± 3.16 points of top-1 against base: higher."
    ]


def test_table_is_written_as_markdown_csv_and_text(complete):
    found = outcomes(complete)
    shown = write_tables(complete, found)
    assert shown.splitlines()[2].split() == " ".join(table_header(complete)).split()
    assert table_header(complete) == [
        "variant", "top-1 (%)", "n", "epochs", "parameters", "MACs", "images/s",
    ]  # fmt: skip
    with (complete.folder / "table.csv").open() as file:
        base, other = csv.DictReader(file)
    assert (base["variant"], base["values"], base["n"]) == ("base", "50 52", "2")
    assert float(other["top1"]) == 58.0
    assert float(other["deviation"]) == pytest.approx(math.sqrt(8))
    assert int(base["macs"]) == complete.cells[0].macs
    page = (complete.folder / "table.md").read_text()
    assert "| column B | 58.00 ± 2.83 | 2 |" in page
    assert "256 training images, 64 test images, centre(32->32)." in page
    assert "Machine: a machine, 2 cores; devices: cpu (cpu)." in page
    assert "jaxcnn 0.1.0, jax 0.10.2, flax 0.12.8, commit 0123456789ab." in page
    assert "Seeds: 0, 1." in page
    assert "all variants train 3 epochs" in page
    assert "All runs together: 2m00s." in page
    assert str(complete.folder.parent) not in page
    assert (complete.folder / "table.txt").read_text().startswith(shown)
    assert not list(complete.folder.glob(".*"))


def test_runs_that_diverged_or_are_missing_are_counted(tmp_path):
    made = plan(tmp_path, seeds=(0, 1, 2))
    runs = made.runs()
    finish(runs[0], 0.5)
    finish(runs[2], 0.52)
    diverge(runs[4])
    diverge(runs[1])
    base, other = table_rows(made, outcomes(made))
    assert base[:3] == ["base", "51.00 ± 1.41", "3 (1 diverged)"]
    assert other[:3] == ["column B", "diverged", "1 (1 diverged, 2 missing)"]
    assert other[-1] == ""
    assert sentences(made, outcomes(made)) == [
        "column B: no difference from base can be given, column B diverged in 1 of 1 runs."
    ]


@pytest.fixture
def searched(tmp_path):
    """Epochs to 25 % training error at three rates. base reaches it after 2, 1 and 3 epochs; column B
    after 3, in one of two runs, and never."""
    grid = {"schedule.rate": (0.1, 0.2, 0.3)}
    made = plan(tmp_path, measure="epochs_to_train_error=0.25", grid=grid)
    slow, fast, never = (0.75, 0.5, 0.25), (0.2, 0.1, 0.1), (0.9, 0.8, 0.7)
    middle = (0.75, 0.25, 0.1)
    errors = [
        [middle, middle],
        [fast, fast],
        [slow, slow],
        [slow, slow],
        [fast, never],
        [never] * 2,
    ]
    for cell, courses in zip(made.cells, errors, strict=True):
        for run, course_of_error in zip(cell.runs, courses, strict=True):
            finish(run, errors=course_of_error)
    return made


def test_variants_are_compared_at_their_best_point(searched):
    found = outcomes(searched)
    assert [line[:5] for line in table_rows(searched, found)] == [
        ["base", "0.1", "2.00 ± 0.00", "2", ""],
        ["base", "0.2", "1.00 ± 0.00", "2", "*"],
        ["base", "0.3", "3.00 ± 0.00", "2", ""],
        ["column B", "0.1", "3.00 ± 0.00", "2", "*"],
        ["column B", "0.2", "not reached (ends at 70.0 %)", "2 (1 not reached)", ""],
        ["column B", "0.3", "not reached (ends at 70.0 %)", "2 (2 not reached)", ""],
    ]
    assert table_header(searched)[:5] == [
        "variant", "schedule.rate", "epochs to 25 % training error", "n", "best",
    ]  # fmt: skip
    assert sentences(searched, found) == [
        "column B: +2.00 ± 0.00 epochs against base (3.00 times as many): later.",
        "column B: its best schedule.rate, 0.1, is at the edge of the grid.",
    ]


def test_no_edge_is_noted_if_no_run_reaches_the_threshold(tmp_path):
    grid = {"schedule.rate": (0.1, 0.2, 0.3)}
    made = plan(tmp_path, measure="epochs_to_train_error=0.25", grid=grid)
    for run in made.runs():
        finish(run, errors=(0.9, 0.8, 0.7))
    assert sentences(made, outcomes(made)) == [
        "column B: no difference from base can be given, column B did not reach the threshold in 2 of 2 "
        "runs."
    ]


def test_provenance_describes_a_budget_of_multiply_adds(tmp_path):
    made = plan(tmp_path, budget="macs")
    assert "same multiply-adds, forward in training, as base in 3 epochs" in "\n".join(
        provenance(made)
    )
    base, other = table_rows(made, outcomes(made))
    assert (base[3], other[3]) == ("3", f"{made.cells[1].config['epochs']:g}")


def test_curves_average_the_epochs_that_all_runs_have():
    first = np.asarray([(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)])
    second = np.asarray([(1.0, 14.0), (3.0, 30.0)])
    epochs, mean, deviation = mean_over_seeds([first, second])
    np.testing.assert_array_equal(epochs, [1.0, 3.0])
    np.testing.assert_array_equal(mean, [12.0, 30.0])
    np.testing.assert_allclose(deviation, [math.sqrt(8), 0.0])
    np.testing.assert_array_equal(mean_over_seeds([first])[2], [0.0, 0.0, 0.0])


def test_curves_are_drawn_for_both_measures(complete, searched):
    for made, kind in ((complete, "top1"), (searched, "error")):
        found = outcomes(made)
        assert curve_kind(made, [o for o in found if o.best]) == kind
        draw_comparison(made, found, made.folder / "curves.png")
        assert (made.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_without_a_finished_run(tmp_path):
    made = plan(tmp_path)
    made.folder.mkdir()
    draw_comparison(made, outcomes(made), made.folder / "curves.png")
    assert (made.folder / "curves.png").exists()


def test_publish_copies_tables_reports_and_events(complete, tmp_path):
    with StopSignal() as stop_signal:
        assert compare([complete], command=[], console=Console(), stop_signal=stop_signal) == {}
    (complete.runs()[0].folder / "checkpoints").mkdir()
    publish([complete], tmp_path / "results")
    files = {
        p.relative_to(tmp_path / "results").as_posix() for p in tmp_path.rglob("results/**/*.*")
    }
    each = ("report.json", "config.json", "metrics.jsonl")
    assert files == {
        *(f"tiny/{name}" for name in ("table.md", "table.csv", "table.txt", "curves.png")),
        *(f"tiny/{c}/seed_{s}/{n}" for c in ("base", "column_b") for s in (0, 1) for n in each),
    }
    for path in (tmp_path / "results").rglob("*.*"):
        assert path.suffix == ".png" or str(tmp_path) not in path.read_text()


def test_incomplete_comparisons_are_not_published(complete, tmp_path):
    (complete.runs()[3].folder / "report.json").unlink()
    with pytest.raises(WorkdirError, match="tiny: column B, seed 1: waiting"):
        publish([complete], tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("complete")
def test_workdirs_of_another_config_stay_unchanged(tmp_path):
    other = plan(tmp_path / "out", overrides={"optim.weight_decay": 0.1})
    before = json.dumps(sorted(map(str, tmp_path.rglob("*"))))
    with (
        StopSignal() as stop_signal,
        pytest.raises(WorkdirError, match=r"weight_decay: 0\.0005 -> 0\.1"),
    ):
        compare([other], command=[], console=Console(), stop_signal=stop_signal)
    assert json.dumps(sorted(map(str, tmp_path.rglob("*")))) == before


def test_the_overview_counts_states(complete):
    lines = overview([complete]).splitlines()
    assert lines[-1] == "4 runs: 4 done"
    assert lines[2].split()[:5] == ["tiny:", "base,", "seed", "0", "done"]
