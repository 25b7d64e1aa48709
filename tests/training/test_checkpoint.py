"""Checkpoints of small states: which ones stay, and faults of the disk."""

import contextlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.train_state import TrainState
from tests.training.runs import orbax_leftovers


def state(step, size=3):
    params = {"fc": {"kernel": jnp.arange(size, dtype=jnp.float32)}}
    return TrainState(jnp.int32(step), params, {}, {}, {})


@contextlib.contextmanager
def opened(folder):
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        yield checkpoints


def test_the_best_checkpoint_outlives_restarts(tmp_path):
    """Metrics are saved: a second manager keeps the checkpoint that was best for the first one."""
    for tops in ({1: 0.9, 2: 0.2}, {3: 0.3, 4: 0.4}):
        with opened(tmp_path) as checkpoints:
            for step, top1 in tops.items():
                checkpoints.save(state(step), {}, best=top1)
                checkpoints.wait()
            assert checkpoints.best() == {"step": 1, "top1": 0.9}
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [1, 3, 4]


def test_a_checkpoint_saved_before_its_evaluation_gets_the_metric_later(tmp_path):
    for top1, best in ((None, None), (0.5, {"step": 24, "top1": 0.5})):
        with opened(tmp_path) as checkpoints:
            checkpoints.save(state(24), {}, best=top1)
            checkpoints.wait()
            assert checkpoints.steps() == [24]
            assert checkpoints.best() == best


def test_restore_returns_the_state_and_its_metadata(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state(5), {"seconds": 1.5})
    with opened(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(jax.eval_shape(lambda: state(0)))
    assert (int(restored.step), meta) == (5, {"seconds": 1.5})
    np.testing.assert_array_equal(restored.params["fc"]["kernel"], [0, 1, 2])


def test_too_little_disk_space_is_an_error_before_the_write(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    message = r"(?s)checkpoint 1 could not.*2 MB are needed, 1 MB are free.*no complete one"
    with opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.save(state(1, size=500_000), {})
    assert not any((tmp_path / "checkpoints").iterdir())


@orbax_leftovers
def test_a_write_that_fails_is_an_error_that_names_the_last_complete_checkpoint(tmp_path):
    """A limit on file size fails the same write as a full disk, but the message does not say "full"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = state(2, size=500_000)
    message = r"(?s)could not be written.*File too large.*last complete one is step 1; .*ulimit -f"
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state(1), {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        try:
            checkpoints.save(large, {})
            with pytest.raises(CheckpointError, match=message) as caught:
                checkpoints.wait()
            assert "full" not in str(caught.value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
