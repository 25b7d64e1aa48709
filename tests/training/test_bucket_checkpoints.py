"""Checkpoints in a bucket: which are complete, what a kill or damage leaves, and a bucket that goes away."""

import contextlib
import errno

import jax
import numpy as np
import pytest

from jaxcnn import object_store, retries
from jaxcnn.parallel import SINGLE_PROCESS, make_placement
from jaxcnn.training import store_watch
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.checkpoint_files import has_state
from jaxcnn.training.checkpoint_probe import prove_saving
from jaxcnn.training.workdir_lease import LeaseLost
from tests.training.test_checkpoint import opened, random_state, restored, state

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def saved(bucket):
    """A workdir with checkpoints of steps 8 and 16, the second of which is the best."""
    with opened(bucket / "run") as checkpoints:
        for step in (8, 16):
            checkpoints.save(random_state(step), {"seconds": step + 0.5}, best=step / 100)
            checkpoints.wait()
    return bucket / "run"


def keys(folder):
    return object_store.keys(folder / "checkpoints")


def of_step(folder, step):
    return [key for key in keys(folder) if key.startswith(f"{step}/")]


def drop(folder, key):
    object_store.delete(folder / "checkpoints" / key)


def flip(path):
    content = bytearray(object_store.read(path))
    content[len(content) // 2] ^= 0x40
    object_store.write(path, bytes(content))


def test_restore_returns_what_was_saved(saved):
    assert restored(saved) == (16, {"seconds": 16.5}, [])
    assert restored(saved, read_only=True) == (16, {"seconds": 16.5}, [])


@pytest.mark.slow
def test_the_latest_and_the_best_stay(bucket):
    with opened(bucket, keep=1) as checkpoints:
        for step, top1 in ((1, 0.5), (2, 0.9), (3, 0.1), (4, 0.2)):
            checkpoints.save(state(step), {}, best=top1)
    with opened(bucket, keep=1) as checkpoints:
        assert checkpoints.steps() == [2, 4]
        assert checkpoints.best() == {"step": 2, "top1": 0.9}
    assert {key.split("/")[0] for key in keys(bucket)} == {"2", "4"}


def test_a_damaged_object_is_set_aside_and_the_checkpoint_before_is_restored(saved):
    paths = [saved / "checkpoints" / key for key in of_step(saved, 16)]
    flip(max(paths, key=lambda path: len(object_store.read(path))))
    with pytest.raises(CheckpointError, match="step 16"):
        restored(saved, read_only=True)
    before = of_step(saved, 16)
    step, meta, (notice,) = restored(saved)
    assert (step, meta) == (8, {"seconds": 8.5})
    assert "resuming from the previous one, step 8" in notice
    aside = object_store.keys(saved / "unreadable_checkpoints")
    assert [key.partition("/")[2] for key in aside] == [key.partition("/")[2] for key in before]
    assert of_step(saved, 16) == []
    assert restored(saved) == (8, {"seconds": 8.5}, [])


def test_a_step_that_was_not_committed_does_not_count_and_is_removed(saved):
    drop(saved, "16/commit_success.txt")
    with opened(saved, read_only=True) as checkpoints:
        assert checkpoints.steps() == [8]
    assert restored(saved) == (8, {"seconds": 8.5}, [])
    assert of_step(saved, 16) == []
    assert object_store.keys(saved / "unreadable_checkpoints") == []
    object_store.write(saved / "checkpoints" / "16" / "notes.txt", b"of somebody")
    (notice,) = restored(saved)[2]
    assert "no commit_success.txt" in notice
    (aside,) = object_store.keys(saved / "unreadable_checkpoints")
    assert aside.endswith("/notes.txt")


@pytest.mark.slow
def test_a_checkpoint_is_there_until_its_replacement_is(bucket, monkeypatch):
    """A stop saves a step before its evaluation; the save after the evaluation fails or is killed."""
    with opened(bucket) as checkpoints:
        checkpoints.save(random_state(8), {"seconds": 8.5})
        checkpoints.wait()
    with opened(bucket) as checkpoints, monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "save", lambda *_: 1 / 0)
        with pytest.raises(CheckpointError, match="no complete one"):
            checkpoints.save(random_state(8), {"seconds": 8.5}, best=0.5)
        assert {key.split("/")[1] for key in object_store.keys(bucket)} == {"8.replaced"}
        object_store.write(bucket / "checkpoints" / "8" / "meta" / "metadata", b"of a killed save")
    with opened(bucket) as checkpoints:
        assert checkpoints.steps() == [8]
        checkpoints.save(random_state(8), {"seconds": 8.5}, best=0.5)
        checkpoints.wait()
    assert {key.split("/")[1] for key in object_store.keys(bucket)} == {"8"}
    assert restored(bucket) == (8, {"seconds": 8.5}, [])


@pytest.mark.slow
def test_what_another_process_writes_and_deletes_is_seen(saved):
    with opened(saved) as one, opened(saved, read_only=True) as other:
        one.save(random_state(24), {}, best=0.9)
        one.wait()
        assert other.steps() == [16, 24]
        found = other.restore(jax.eval_shape(lambda: random_state(0)))
        assert found is not None
        assert int(found[0].step) == 24
        for key in of_step(saved, 24):
            drop(saved, key)
        assert other.steps() == [16]


def refuse(*_):
    raise OSError(errno.EIO, "refused")


@pytest.mark.parametrize("status", [403, 503])
def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(saved, bucket_proxy, status):
    before = keys(saved)

    def wrong(_, path):
        return status if "manifest.ocdbt" in path and "tensorstore" in path else 0

    with opened(saved) as checkpoints:
        bucket_proxy.wrong = wrong if status == 403 else bucket_proxy.wrong
        if status == 503:
            checkpoints._manager.restore = refuse  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(CheckpointError, match="cannot be read by this process"):
            checkpoints.restore(jax.eval_shape(lambda: random_state(0)))
    bucket_proxy.behave()
    assert keys(saved) == before


@pytest.mark.slow
def test_a_start_proves_that_a_save_can_be_read_back(bucket, bucket_proxy):
    sharding = make_placement().replicated
    for _ in range(2):
        prove_saving(bucket / "run", sharding, SINGLE_PROCESS)
        assert object_store.keys(bucket) == []
    bucket_proxy.wrong = lambda method, _: 403 if method == "POST" else 0
    with pytest.raises(CheckpointError, match=r"(?s)cannot be saved in gs://.*refused"):
        prove_saving(bucket / "run", sharding, SINGLE_PROCESS)


@pytest.mark.slow
def test_a_save_ends_when_object_storage_stays_away(saved, bucket_proxy, monkeypatch):
    with opened(saved) as checkpoints:
        monkeypatch.setattr(store_watch, "LIMIT_SECONDS", 0.0)
        monkeypatch.setattr(store_watch, "_ASK_SECONDS", 0.01)
        bucket_proxy.answers.clear()
        with pytest.raises(
            CheckpointError, match=r"has not answered[^$]*complete ones that are there"
        ):
            checkpoints.save(random_state(24), {})
    bucket_proxy.behave()
    retries.take_time()
    with contextlib.closing(Checkpoints(saved / "checkpoints", read_only=True)) as checkpoints:
        assert checkpoints.steps() == [8, 16]
    np.testing.assert_equal(restored(saved)[0], 16)


def test_a_run_that_lost_its_lease_deletes_and_saves_nothing(saved):
    """Another run has the workdir, and decides what stays."""

    def lost():
        raise LeaseLost("taken")

    before = keys(saved)
    checkpoints = Checkpoints(saved / "checkpoints", keep=1, confirm=lost)
    with pytest.raises(LeaseLost):
        checkpoints.save(random_state(24), {})
    with pytest.raises(LeaseLost):
        checkpoints.close()
    assert keys(saved) == before


def test_only_a_complete_checkpoint_is_a_state(saved):
    folder = saved / "checkpoints"
    assert has_state(folder)
    for step in (8, 16):
        drop(saved, f"{step}/commit_success.txt")
    assert not has_state(folder)
