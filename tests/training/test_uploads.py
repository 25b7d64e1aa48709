"""metrics.jsonl of a run in a bucket: what is there when, and what ends a run."""

import json
import time

import pytest

from jaxcnn import object_store, retries
from jaxcnn.parallel import SINGLE_PROCESS
from jaxcnn.training.metrics_file import read_events
from jaxcnn.training.metrics_writer import MetricsWriter
from jaxcnn.training.workdir_lease import Lease, LeaseLost

TRAIN = {"kind": "train", "step": 3, "epoch": 0.5, "loss": 1.0, "top1": 0.5}
TRAIN |= {"learning_rate": 0.1, "images_per_second": 9.0}
EVAL = {"kind": "eval", "step": 3, "epoch": 0.5, "protocol": "centre", "split": "evaluation"}
EVAL |= {"n": 4, "top1": 0.5, "top5": 1.0, "loss": 1.0}


@pytest.fixture
def open_writer(bucket):
    writers = []

    def open_(upload_seconds=1000.0, lease=None):
        folder = bucket / "run"
        writer = MetricsWriter(
            folder, False, SINGLE_PROCESS, upload_seconds=upload_seconds, lease=lease
        )
        writers.append(writer)
        return folder / "metrics.jsonl", writer

    yield open_
    for writer in writers:
        writer.close()


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_is_written_is_there_after_an_upload(open_writer):
    path, writer = open_writer()
    writer.write(TRAIN)
    with pytest.raises(FileNotFoundError):
        object_store.read(path)
    writer.upload()
    assert read_events(path) == [TRAIN]
    writer.write(TRAIN | {"step": 6})
    writer.upload()
    assert [event["step"] for event in read_events(path)] == [3, 6]
    writer.write(TRAIN | {"step": 9})
    writer.close()
    assert [event["step"] for event in read_events(path)] == [3, 6, 9]


def test_an_evaluation_and_time_upload(open_writer):
    path, writer = open_writer()
    writer.write(TRAIN)
    writer.write(EVAL)
    wait_until(path.exists)
    wait_until(lambda: read_events(path) == [TRAIN, EVAL])
    path, writer = open_writer(upload_seconds=0.1)
    writer.truncate(0)
    writer.write(TRAIN)
    wait_until(lambda: read_events(path) == [TRAIN])


def test_a_resumed_run_goes_on_after_its_step(open_writer):
    path, writer = open_writer()
    lines = [TRAIN, TRAIN | {"step": 6}, TRAIN | {"step": 9}]
    object_store.write(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert writer.truncate(6) == lines[:2]
    assert read_events(path) == lines[:2]
    writer.write(EVAL)
    writer.upload()
    assert read_events(path) == [*lines[:2], EVAL]


def test_a_damaged_file_is_set_aside(open_writer):
    path, writer = open_writer()
    object_store.write(path, json.dumps(TRAIN).encode() + b"\n{,}\n")
    assert writer.truncate(6) == [TRAIN]
    assert object_store.read(path.with_name("metrics.jsonl.damaged")).endswith(b"{,}\n")
    assert read_events(path) == [TRAIN]


def test_uploads_that_fail_are_tried_again_and_then_end_the_run(
    open_writer, bucket_proxy, monkeypatch
):
    monkeypatch.setattr(retries, "PAUSES", (0.01,))
    path, writer = open_writer()
    answers = iter([503])
    bucket_proxy.wrong = lambda *_: next(answers, 0)
    writer.write(TRAIN)
    writer.upload()
    assert read_events(path) == [TRAIN]
    bucket_proxy.status = 503
    writer.write(EVAL)
    wait_until(lambda: writer._uploads._failure is not None)
    for ask in (writer.check, writer.upload):
        with pytest.raises(OSError, match="2 times in 0 s") as caught:
            ask()
        assert str(caught.value).startswith(f"cannot write {path}: refused by the proxy (EIO)")


def test_a_stop_does_not_wait_for_a_bucket_that_hangs(open_writer, bucket_proxy, monkeypatch):
    monkeypatch.setattr(retries, "STOP_SECONDS", 0.1)
    _, writer = open_writer()
    bucket_proxy.answers.clear()
    writer.write(EVAL)
    retries.hurry()
    try:
        with pytest.raises(OSError, match="did not answer in 0 s"):
            writer.upload()
    finally:
        retries.take_time()


def test_nothing_is_uploaded_after_the_lease_is_lost(open_writer, bucket):
    lease = Lease(bucket / "run" / ".running")
    lease.acquire()
    path, writer = open_writer(lease=lease)
    writer.write(TRAIN)
    object_store.write(bucket / "run" / ".running", b"{}")
    lease._renew()
    with pytest.raises(LeaseLost):
        writer.upload()
    with pytest.raises(LeaseLost):
        writer.close()
    lease.release()
    with pytest.raises(FileNotFoundError):
        object_store.read(path)
