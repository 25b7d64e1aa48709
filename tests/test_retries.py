"""Outages: many threads wait, and say so together."""

import errno
import logging
import threading

import pytest

from jaxcnn import retries
from jaxcnn.data.threads import ThreadPool
from jaxcnn.retries import StillFailing, retry

THREADS = 64


@pytest.fixture
def threads():
    pool = ThreadPool(THREADS, "reader")
    yield pool
    pool.close()


def read_by_all(threads, results):
    """The outcomes of as many reads at a time as there are threads, each of which fails as often as
    `results` has None, then returns the next one. No read ends before all have begun."""
    barrier = threading.Barrier(THREADS)

    def read(outcomes):
        barrier.wait(30)
        if (result := next(outcomes)) is None:
            raise OSError(errno.EIO, "gone")
        return result

    def work(number):
        outcomes = iter(results)
        return retry(lambda: read(outcomes), f"gs://bucket/set/{number}")

    return [threads.submit(work, number) for number in range(THREADS)]


def test_all_threads_say_an_outage_once(threads, monkeypatch, caplog):
    monkeypatch.setattr(retries, "PAUSES", (0.001, 0.002, 0.003))
    with caplog.at_level(logging.INFO):
        begun = read_by_all(threads, [None, None, "read"])
        assert {threads.wait_for(one) for one in begun} == {"read"}
    *waiting, over = (record.getMessage() for record in caplog.records)
    assert [line.split("; ")[1] for line in waiting] == [
        "trying again in 0.001 s",
        "trying again in 0.002 s",
    ]
    assert "cannot read gs://bucket/set/" in waiting[0]
    assert "gone (EIO)" in waiting[0]
    assert over.startswith("gs://bucket answers again, after ")
    caplog.clear()
    begun = read_by_all(threads, [None, "read"])  # the next outage
    assert {threads.wait_for(one) for one in begun} == {"read"}
    assert [record.getMessage()[:6] for record in caplog.records] == ["cannot", "gs://b"]


def test_what_still_fails_is_an_error_in_every_thread(threads, monkeypatch, caplog):
    monkeypatch.setattr(retries, "PAUSES", (0.001, 0.002))
    for one in read_by_all(threads, [None] * 3):
        with pytest.raises(StillFailing, match=r"gone .*, 3 times in 0 s; this is an error of"):
            threads.wait_for(one)
    assert caplog.text.count("trying again") == 2
    assert "answers again" not in caplog.text
