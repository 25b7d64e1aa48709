"""Runs on data in a bucket that goes away, hangs, is deleted or replaced, and on copies that are damaged."""

import itertools
import logging
import threading
import time

import jax
import numpy as np
import pytest

from jaxcnn import object_store, retries
from jaxcnn.data import DataError, open_data
from jaxcnn.data.sources.digits import prepare_digits
from jaxcnn.training import Stopped, run
from tests.training.runs import config, state_of
from tests.training.stalled import send

NAME, STEPS = "copy", 9


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared data set of 1,442 JPEGs, under `NAME`."""
    root = tmp_path_factory.mktemp("tfds")
    (prepare_digits(root) / "digits").rename(root / NAME)
    return root


@pytest.fixture
def uploaded(prepared, bucket, bucket_proxy, tmp_path, monkeypatch):
    """The data set in a bucket, and indexed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "index"))
    for file in prepared.rglob("*"):
        if file.is_file() and file.suffix != ".npz":
            object_store.write(bucket / file.relative_to(prepared), file.read_bytes())
    open_data(f"tfds:{NAME}", str(bucket))
    bucket_proxy.requests.clear()
    return bucket


def settings(data_dir, **changes):
    return config(
        data__source=f"tfds:{NAME}",
        data__data_dir=data_dir,
        epochs=STEPS * 32 / 1442,
        evals="()",
        **changes,
    )


def parameters(workdir):
    return jax.tree.map(np.asarray, state_of(workdir).params)


def assert_equal_runs(one, other):
    assert int(state_of(one).step) == int(state_of(other).step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, parameters(one), parameters(other))


def from_read(proxy, number, fault):
    """Calls `fault()`, which returns a status, for each read of data from the `number`th on."""
    reads = itertools.count(1)

    def wrong(method, path):
        late = method == "GET" and "alt=media" in path and ".tfrecord" in path
        return fault() if late and next(reads) >= number else 0

    proxy.wrong = wrong


def shards(folder):
    return [path for path in folder.iterdir() if "-train.tfrecord" in path.name]


@pytest.mark.slow
def test_a_bucket_that_goes_away_for_long_stops_the_run_with_its_state_saved(
    uploaded, prepared, bucket_proxy, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.02))
    from_read(bucket_proxy, 4 * 32, lambda: 503)
    with pytest.raises(
        DataError, match=r"cannot read gs://.*3 times .* give the same command again"
    ):
        run(settings(uploaded), tmp_path / "run")
    assert 0 < int(state_of(tmp_path / "run").step) < STEPS
    assert caplog.text.count("trying again") == 2
    answers = itertools.chain([503] * 12, itertools.repeat(0))  # goes away and comes back
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 20)
    caplog.clear()
    from_read(bucket_proxy, 2 * 32, lambda: next(answers))
    run(settings(uploaded), tmp_path / "run")
    assert "answers again" in caplog.text
    assert "corrupt" not in caplog.text
    bucket_proxy.behave()
    run(settings(prepared), tmp_path / "disk")
    assert_equal_runs(tmp_path / "run", tmp_path / "disk")


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_bucket_that_hangs(uploaded, bucket_proxy, tmp_path):
    def hang():
        bucket_proxy.answers.clear()
        send()
        bucket_proxy.answers.wait()
        return 0

    from_read(bucket_proxy, 4 * 32, hang)
    with pytest.raises(Stopped):
        run(settings(uploaded), tmp_path / "run")
    assert not bucket_proxy.answers.is_set()
    assert 0 < int(state_of(tmp_path / "run").step) < STEPS


@pytest.mark.slow
def test_a_stop_does_not_wait_for_pauses(uploaded, bucket_proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (600.0,))

    def gone():
        threading.Timer(1.0, send).start()
        return 503

    faults = itertools.chain([gone], itertools.repeat(lambda: 503))
    from_read(bucket_proxy, 4 * 32, lambda: next(faults)())
    with pytest.raises(Stopped):
        run(settings(uploaded), tmp_path / "run")
    assert 0 < int(state_of(tmp_path / "run").step) < STEPS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deleted", "replaced"])
def test_data_that_change_while_they_are_read_stop_the_run(uploaded, bucket_proxy, tmp_path, kind):
    def change():
        bucket_proxy.behave()
        for path in shards(uploaded / NAME / "1.0.0"):
            if kind == "deleted":
                object_store.delete(path)
            else:
                object_store.write(path, object_store.read(path))
        return 0

    from_read(bucket_proxy, 4 * 32, change)
    message = {"deleted": "no such object", "replaced": "was replaced while it was in use"}[kind]
    with pytest.raises(DataError, match=message):
        run(settings(uploaded), tmp_path / "run")
    assert 0 < int(state_of(tmp_path / "run").step) < STEPS


@pytest.mark.slow
def test_a_run_with_a_cache_reads_each_shard_once(
    uploaded, prepared, bucket_proxy, tmp_path, caplog
):
    cache = tmp_path / "cache"
    run(settings(uploaded, data__cache_dir=cache), tmp_path / "first")
    while not [p for p in cache.glob("*/*train.tfrecord*") if p.suffix != ".part"]:
        time.sleep(0.01)
    bucket_proxy.requests.clear()
    run(settings(uploaded, data__cache_dir=cache), tmp_path / "second")
    reads = [path for _, path in bucket_proxy.requests if "alt=media" in path and "-train" in path]
    assert len(reads) < 32  # those that threads began before the first one ended
    for copy in cache.glob("*/*train.tfrecord*"):
        data = bytearray(copy.read_bytes())
        data[::1000] = bytes(255 - byte for byte in data[::1000])
        copy.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        run(settings(uploaded, data__cache_dir=cache, data__cache_gb=1), tmp_path / "third")
    assert caplog.text.count("is damaged") == 1
    run(settings(prepared), tmp_path / "disk")
    for name in ("first", "second", "third"):
        assert_equal_runs(tmp_path / name, tmp_path / "disk")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [20, None])
def test_a_server_that_goes_away_with_the_real_pauses(
    uploaded, prepared, bucket_proxy, tmp_path, caplog, seconds
):
    server = bucket_proxy.server

    def stop():
        bucket_proxy.behave()
        server.stop()
        if seconds:
            threading.Timer(seconds, server.start).start()
        return 503

    from_read(bucket_proxy, 4 * 32, stop)
    if seconds:
        run(settings(uploaded), tmp_path / "run")
        assert caplog.text.count("answers again, after") == 1
    else:
        with pytest.raises(DataError, match=r"7 times in 9\d s"):
            run(settings(uploaded), tmp_path / "run")
        assert caplog.text.count("trying again") == len(retries.PAUSES)
        server.start()
        run(settings(uploaded), tmp_path / "run")
    run(settings(prepared), tmp_path / "disk")
    assert_equal_runs(tmp_path / "run", tmp_path / "disk")
