"""The small files of a run: damage is an error that names the file, or is set aside and said."""

import errno
import json
import os

import pytest

from jaxcnn.files import FileError, WriteError
from jaxcnn.parallel import SINGLE_PROCESS
from jaxcnn.training import report, run_files
from jaxcnn.training.metrics_file import read_events, recover_events
from jaxcnn.training.metrics_writer import MetricsWriter

DAMAGED = ("", "{", "[1]", "{}", '{"starts": 3, "results": 3}', "[" * 200_000, "\0\0")
ROW = {"protocol": "centre", "split": "test", "n": 4, "top1": 0.5, "top5": 1.0, "loss": 1.0}
TRAIN = {"kind": "train", "epoch": 1.0, "loss": 1.0, "top1": 0.5}
TRAIN |= {"learning_rate": 0.1, "images_per_second": 9.0}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_run_json_stops_no_run(tmp_path, caplog, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    assert run_files.read_starts(path) == []
    run_files.add_start(path, {"examples": 7})
    assert [start["examples"] for start in run_files.read_starts(path)] == [7]
    assert (tmp_path / "run.json.damaged").read_text() == content
    assert "run.json.damaged" in caplog.text


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_report_is_named_or_set_aside(tmp_path, caplog, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(FileError, match=r"report.json .*run the run's own command again"):
        run_files.read_report(path)
    assert run_files.report_or_empty(path) == {"results": []}
    assert path.read_text() == content
    assert run_files.recover_report(path) == {"results": []}
    assert (tmp_path / "report.json.damaged").read_text() == content
    assert "is evaluated again" in caplog.text


def test_classes_must_be_as_many_as_the_outputs_of_the_net(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert run_files.read_classes(tmp_path, 2) == ("cat", "dog")
    with pytest.raises(FileError, match=r"classes.txt has 2 names for the 4 classes of the net"):
        run_files.read_classes(tmp_path, 4)


def lines(*events):
    return "".join(json.dumps(event) + "\n" for event in events)


def test_a_last_event_that_was_cut_is_left_out_silently(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines({**TRAIN, "step": 1}, {**TRAIN, "step": 2})[:-9])
    assert [event["step"] for event in read_events(path)] == [1]
    assert [event["step"] for event in recover_events(path, 5)] == [1]
    assert path.read_text() == lines({**TRAIN, "step": 1})
    assert not caplog.records


def test_events_that_are_missing_before_the_state_are_said(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(*({**TRAIN, "step": step} for step in (20, 40, 60))))
    recover_events(path, 79)  # the next is written after step 80
    assert not caplog.records
    recover_events(path, 100)
    assert "ends at step 60, but the state is that of step 100" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\xff\n"[:1],
        b"",
        b"3",
        b'{"kind": "train"}',
        b'{"kind": "eval", "step": 2, "epoch": 1}',
        b"[" * 200_000,
        b'{"kind": "train", "step": 1e400, "epoch": 1}',
    ],
)
def test_a_damaged_event_in_the_middle_is_named_and_the_others_are_kept(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    first, last = ({**TRAIN, "step": step} for step in (1, 3))
    content = lines(first).encode() + line + b"\n" + lines(last).encode()
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"metrics.jsonl \(line 2\) "):
        read_events(path)
    assert recover_events(path, 3) == [first, last]
    assert path.read_text() == lines(first, last)
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content
    assert "(line 2)" in caplog.text


ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE]


def check(error, path):
    number = error.errno
    assert str(error).startswith(f"{path} cannot be written ({os.strerror(number)}); ")
    assert ("is full" in str(error)) == (number == errno.ENOSPC)


@pytest.mark.parametrize("number", ERRORS)
def test_errors_of_the_disk_name_the_file(tmp_path, monkeypatch, number):
    """And say that the disk is full only if it is."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    writer = MetricsWriter(tmp_path, False, SINGLE_PROCESS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.open", fail)
        with pytest.raises(WriteError) as caught:
            writer.write({**TRAIN, "step": 1})
    check(caught.value, tmp_path / "metrics.jsonl")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError) as caught:
        run_files.write_report(tmp_path / "report.json", {"results": []}, [], step=1)
    check(caught.value, tmp_path / "report.json")
    with pytest.raises(WriteError) as caught:
        report.draw_curves([], tmp_path / "curves.png", "")
    check(caught.value, tmp_path / "curves.png")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("number", ERRORS)
def test_an_error_of_the_disk_in_clus_thread_names_the_events(tmp_path, monkeypatch, number):
    from clu import metric_writers

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    writer = MetricsWriter(tmp_path, True, SINGLE_PROCESS)
    monkeypatch.setattr(metric_writers.SummaryWriter, "write_scalars", fail)
    writer.write({**TRAIN, "step": 1})
    with pytest.raises(WriteError) as caught:
        writer.close()
    check(caught.value, tmp_path / "events.out.tfevents.*")
