"""The lease of a workdir in a bucket: who gets it, who keeps it, and what a loss of it stops."""

import json
import subprocess
import sys
import time

import pytest

from jaxcnn import object_store, retries
from jaxcnn.paths import user_path
from jaxcnn.training import workdir_lease
from jaxcnn.training.signals import Stopped
from jaxcnn.training.workdir_lease import Lease, LeaseLost
from jaxcnn.training.workdir_lock import LOCK, WorkdirError, lock_workdir


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(workdir_lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(workdir_lease, "EXPIRES_SECONDS", 1e3)
    monkeypatch.setattr(workdir_lease, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(retries, "PAUSES", (0.01,))


def refused(folder):
    with pytest.raises(WorkdirError) as error, lock_workdir(folder):
        pass
    return str(error.value)


def owner(folder):
    return json.loads(object_store.read(folder / LOCK))


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def left_behind(folder, **changes):
    """A lease that nobody renews."""
    with lock_workdir(folder):
        found = owner(folder)
    object_store.write(folder / LOCK, json.dumps(found | changes).encode(), object_store.NONE)
    return found


def test_the_second_run_is_refused_and_the_first_is_named(bucket, capsys):
    folder = bucket / "run"
    with lock_workdir(folder):
        first = owner(folder)
        expected = f"{folder} is in use by process {first['process']} of {first['host']}, which"
        assert expected in refused(folder)
        assert owner(folder)["token"] == first["token"]
    assert "is in use by process" in capsys.readouterr().out
    with lock_workdir(folder):
        assert owner(folder)["token"] != first["token"]
    assert not (folder / LOCK).exists()


def test_a_lease_that_is_renewed_no_more_is_taken_over(bucket, monkeypatch, capsys):
    monkeypatch.setattr(workdir_lease, "EXPIRES_SECONDS", 0.3)
    folder = bucket / "run"
    left_behind(folder, machine="another", host="elsewhere", process=7)
    with lock_workdir(folder) as lease:
        lease.confirm()
        assert "in use by process 7 of elsewhere" in capsys.readouterr().out


def test_a_damaged_lease_is_taken_over(bucket, monkeypatch):
    monkeypatch.setattr(workdir_lease, "EXPIRES_SECONDS", 0.3)
    object_store.write(bucket / "run" / LOCK, b"\xff\x00 no JSON")
    with lock_workdir(bucket / "run") as lease:
        lease.confirm()


def test_a_dead_process_of_this_machine_is_not_waited_for(bucket, capsys):
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as other:
        other.wait()
    left_behind(bucket / "run", process=other.pid)
    with lock_workdir(bucket / "run"):
        pass
    left_behind(bucket / "again", process_start="0")  # its number belongs to this process now
    with lock_workdir(bucket / "again"):
        pass
    assert capsys.readouterr().out == ""


def test_a_stop_ends_the_wait(bucket):
    left_behind(bucket / "run", machine="another")

    def stop():
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped), lock_workdir(bucket / "run", stop):
        pass


def test_a_run_whose_lease_was_taken_learns_it(bucket):
    folder = bucket / "run"
    with lock_workdir(folder) as lease:
        lease.check()
        taken = json.dumps({"process": 7, "host": "elsewhere"}).encode()
        object_store.write(folder / LOCK, taken)
        wait_until(lambda: lease._lost)
        for ask in (lease.check, lease.confirm):
            with pytest.raises(LeaseLost, match="was taken by process 7 of elsewhere"):
                ask()
    assert object_store.read(folder / LOCK) == taken


def test_renewals_go_on_when_the_bucket_comes_back(bucket, bucket_proxy):
    with lock_workdir(bucket / "run") as lease:
        bucket_proxy.status = 503
        time.sleep(0.1)
        lease._renewed -= 1e6
        with pytest.raises(OSError, match="refused by the proxy"):
            lease.confirm()
        bucket_proxy.behave()
        lease.confirm()


def test_a_renewal_whose_answer_was_lost_is_its_own(bucket):
    path = bucket / "run" / LOCK
    lease = Lease(path)
    lease.acquire()
    lease._ended.set()
    lease._thread.join()
    object_store.write(path, object_store.read(path))  # as the renewal whose answer did not come
    lease._renewed -= 1e6
    lease.confirm()
    lease.release()
    assert not path.exists()


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "gcloud auth application-default login"), (401, "Storage Object")]
)
def test_no_permission(bucket, bucket_proxy, status, advice):
    bucket_proxy.status = status
    text = refused(bucket / "run")
    assert text.startswith(f"cannot write to the workdir {bucket / 'run'}: refused by the proxy")
    assert advice in text


@pytest.mark.usefixtures("bucket")
def test_no_such_bucket():
    text = refused(user_path("gs://jaxcnn-has-no-such-bucket/run"))
    assert "there is no bucket 'jaxcnn-has-no-such-bucket'" in text
    assert "gcloud storage buckets create" in text


def test_a_bucket_that_does_not_answer(bucket, bucket_proxy):
    bucket_proxy.status = 503
    text = refused(bucket / "run")
    assert "2 times in" in text
    assert "check the network" in text
