"""Checkpoints of small states: which ones stay, damaged ones, names of folders, and faults of the disk."""

import contextlib
import errno
import gc
import json
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.parallel import SINGLE_PROCESS, make_placement
from jaxcnn.training import checkpoint_files, checksums
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.checkpoint_errors import not_written
from jaxcnn.training.checkpoint_probe import prove_saving
from jaxcnn.training.train_state import TrainState
from jaxcnn.training.workdir import has_begun


def state(step, size=3):
    params = {"fc": {"kernel": jnp.arange(size, dtype=jnp.float32)}}
    return TrainState(jnp.int32(step), params, {}, {}, {})


def random_state(step, size=30_000):
    """Values that do not compress, so that most bits in the files are bits of values."""
    drawn = np.random.default_rng(step).integers(0x3C000000, 0x3F000000, size, np.uint32)
    params = {"fc": {"kernel": jnp.asarray(drawn.view(np.float32)), "bias": jnp.ones(4)}}
    return TrainState(jnp.int32(step), params, {}, {}, {})


@contextlib.contextmanager
def opened(folder, **options):
    with contextlib.closing(Checkpoints(folder / "checkpoints", **options)) as checkpoints:
        yield checkpoints


@pytest.fixture
def saved(tmp_path):
    """A workdir with checkpoints of steps 8 and 16, the second of which is the best."""
    with opened(tmp_path) as checkpoints:
        for step in (8, 16):
            checkpoints.save(random_state(step), {"seconds": step + 0.5}, best=step / 100)
            checkpoints.wait()
    return tmp_path


def restored(folder, **options):
    """(step, meta, notices) of what a start restores; its arrays are those that were saved."""
    with opened(folder, **options) as checkpoints:
        state, meta = checkpoints.restore(jax.eval_shape(lambda: random_state(0)))
        step = int(state.step)
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(random_state(step)), strict=True):
            np.testing.assert_array_equal(x, y)
        assert checkpoints.best()["step"] == step
        return step, meta, checkpoints.notices


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 0x40
    path.write_bytes(content)


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


def test_a_flipped_bit_is_noticed_named_and_never_costs_the_good_checkpoint(saved, capfd):
    """Orbax restores this state without an error. The run goes on from the one before, which stays."""
    flip(largest(saved / "checkpoints" / "16"))
    step, meta, notices = restored(saved)
    assert (step, meta) == (8, {"seconds": 8.5})
    assert "step 16 cannot be read (damaged: params/fc/kernel differ" in notices[0]
    assert f"previous one, step 8; it was moved to {saved / 'unreadable_checkpoints'}" in notices[0]
    flip(largest(next((saved / "unreadable_checkpoints").iterdir())))  # it was moved as it was
    assert capfd.readouterr().out == ""
    with opened(saved, keep=1) as checkpoints:
        shutil.copytree(saved / "checkpoints" / "8", saved / "checkpoints" / "12")  # another step
        assert int(checkpoints.restore(random_state(0))[0].step) == 8
        assert "it holds the state of step 8" in checkpoints.notices[0]
        for later in (16, 24, 32):
            checkpoints.save(random_state(later), {})
        checkpoints.wait()
        assert checkpoints.steps() == [8, 32]
    assert len(list((saved / "unreadable_checkpoints").iterdir())) == 2
    with opened(saved, keep=1) as checkpoints:  # a later start, which read step 32
        assert int(checkpoints.restore(random_state(0))[0].step) == 32
        checkpoints.save(random_state(40), {})
        checkpoints.wait()
        assert checkpoints.steps() == [8, 40]  # step 8 has the best result
        assert checkpoints.notices == []


def test_the_checkpoint_that_a_run_went_on_from_stays_without_being_the_best(tmp_path):
    like = random_state(0)
    with opened(tmp_path) as checkpoints:
        for step in (8, 16):
            checkpoints.save(random_state(step), {})
            checkpoints.wait()
    flip(largest(tmp_path / "checkpoints" / "16"))
    with opened(tmp_path, keep=1) as checkpoints:
        assert int(checkpoints.restore(like)[0].step) == 8
        for later in (24, 32):
            checkpoints.save(random_state(later), {})
        checkpoints.wait()
        assert checkpoints.steps() == [8, 32]
    with opened(tmp_path, keep=1) as checkpoints:  # a later start, which read step 32
        assert int(checkpoints.restore(like)[0].step) == 32
        checkpoints.save(random_state(40), {})
        checkpoints.wait()
        assert checkpoints.steps() == [40]


def _swap(folder, other):
    kept = folder.read_bytes()
    folder.write_bytes(other.read_bytes())
    other.write_bytes(kept)


DAMAGES = {
    "cut short": lambda new, _: largest(new).write_bytes(largest(new).read_bytes()[:-1000]),
    "empty": lambda new, _: largest(new).write_bytes(b""),
    "missing": lambda new, _: largest(new).unlink(),
    "swapped": lambda new, old: _swap(largest(new), largest(old)),
    "other meta": lambda new, old: _swap(new / "meta" / "metadata", old / "meta" / "metadata"),
    "meta": lambda new, _: flip(new / "meta" / "metadata", 12),
    "meta of lists": lambda new, _: (new / "meta" / "metadata").write_text("[" * 200_000),
    "no meta": lambda new, _: shutil.rmtree(new / "meta"),
    "names": lambda new, _: (new / "state" / "_METADATA").write_text("{"),
    "no state": lambda new, _: shutil.rmtree(new / "state"),
    "empty folder": lambda new, _: [shutil.rmtree(new), new.mkdir()],
    "file": lambda new, _: [shutil.rmtree(new), new.write_text("")],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_wrong_with_the_newest_the_one_before_is_restored(saved, damage, capfd):
    """And the step of the damaged one can be saved again."""
    DAMAGES[damage](saved / "checkpoints" / "16", saved / "checkpoints" / "8")
    if damage in ("swapped", "other meta"):  # both are damaged
        with opened(saved) as checkpoints, pytest.raises(CheckpointError, match="no checkpoint in"):
            checkpoints.restore(random_state(0))
        assert not (saved / "unreadable_checkpoints").exists()
        return
    assert restored(saved)[:2] == (8, {"seconds": 8.5})
    with opened(saved) as checkpoints:
        checkpoints.save(random_state(16), {"seconds": 1.0}, best=0.5)
    assert restored(saved) == (16, {"seconds": 1.0}, [])
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "commit_success.txt"])
def test_what_orbax_keeps_beside_the_state_is_not_needed(saved, name):
    (saved / "checkpoints" / "16" / name).write_text("{")
    assert restored(saved)[:2] == (16, {"seconds": 16.5})


def test_a_reader_of_a_damaged_checkpoint_gets_no_other_weights(saved):
    """`load`, `evaluate` and `init.from_run` change nothing and do not choose another step themselves."""
    flip(largest(saved / "checkpoints" / "16"))
    like = jax.eval_shape(lambda: random_state(0))
    with opened(saved, read_only=True) as checkpoints:
        for step in (None, 16):
            with pytest.raises(
                CheckpointError, match=r"(?s)step 16: damaged: params/fc.*--step=8 "
            ):
                checkpoints.restore(like, step)
        assert int(checkpoints.restore(like, 8)[0].step) == 8
    assert sorted(p.name for p in saved.iterdir()) == ["checkpoints"]


def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_says_so(saved):
    for step in (8, 16):
        folder = saved / "checkpoints" / str(step)
        (folder / "meta" / "metadata").write_text(json.dumps({"seconds": step + 0.5}))
        (folder / "metrics").mkdir()
        (folder / "metrics" / "metrics").write_text(json.dumps({"top1": step / 100}))
    step, meta, notices = restored(saved)
    assert (step, meta) == (16, {"seconds": 16.5})
    assert len(notices) == 1
    assert "step 16 has no checksums" in notices[0]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE])
def test_a_limit_of_this_process_is_not_a_damaged_checkpoint(saved, monkeypatch, number):
    """Too few file descriptors, or a file server that does not answer: nothing is moved aside for that."""

    def fail(*_):
        raise OSError(number, os.strerror(number), "x")

    with opened(saved) as checkpoints:
        monkeypatch.setattr(checkpoint_files, "read_meta", fail)
        with pytest.raises(CheckpointError, match=rf"(?s)16 in.*{os.strerror(number)}.*ulimit"):
            checkpoints.restore(random_state(0))
    assert not (saved / "unreadable_checkpoints").exists()


def test_a_checkpoint_is_there_until_its_replacement_is(saved):
    """A kill after the old one of a step has made room for a new one with a metric."""
    checkpoint_files.move_replaced(saved / "checkpoints", 16)
    assert restored(saved)[0] == 16
    checkpoint_files.move_replaced(saved / "checkpoints", 16)
    shutil.rmtree(saved / "checkpoints" / "8")
    assert has_begun(saved)
    with opened(saved):
        pass
    assert restored(saved)[0] == 16


def test_accuracies_on_other_images_are_not_compared(tmp_path):
    """The images of a run may change if the user accepts it."""
    with opened(tmp_path, keep=2, images="a") as checkpoints:
        checkpoints.save(random_state(8), {}, best=0.9)
    with opened(tmp_path, keep=2, images="b") as checkpoints:
        assert checkpoints.best() is None
        checkpoints.save(random_state(8), {}, best=0.2)  # evaluated again
        checkpoints.save(random_state(16), {}, best=0.3)
        checkpoints.wait()
        assert checkpoints.best() == {"step": 16, "top1": 0.3}
    with opened(tmp_path, images="b") as checkpoints:
        assert checkpoints.best() == {"step": 16, "top1": 0.3}


def test_folders_of_others_are_set_aside_and_remnants_of_deletions_removed(saved):
    checkpoints = saved / "checkpoints"
    (checkpoints / "3").mkdir()
    (checkpoints / "4" / "notes").mkdir(parents=True)
    (checkpoints / "5").symlink_to(saved)
    assert restored(saved)[0] == 16
    assert not {"3", "4", "5"} & {entry.name for entry in checkpoints.iterdir()}
    aside = [entry.name.partition("_")[0] for entry in (saved / "unreadable_checkpoints").iterdir()]
    assert sorted(aside) == ["4", "5"]


def test_checksums_do_not_depend_on_the_placement():
    """Saved from a mesh of 4 x 2 devices, restored to one, or to other regions on each."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    specs = [PartitionSpec(*axes) for axes in ((), ("a",), (None, "b"), ("b", "a"), (("a", "b"),))]
    places = [one, *(NamedSharding(mesh, spec) for spec in specs)]
    values = np.random.default_rng(0).normal(size=(16, 3000)).astype(np.float32)
    other = values.copy()
    other[9, 1234] = np.nextafter(other[9, 1234], np.float32(9))
    for save in places:
        saved = checksums.local_checksums({"x": jax.device_put(values, save)})
        for place in places:
            for array, damaged in ((values, []), (other, ["x"])):
                tree = {"x": jax.device_put(array, place)}
                assert checksums.damaged_leaves(tree, saved) == damaged


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_, np.uint8, jnp.bfloat16])
def test_a_checksum_depends_on_each_byte_and_its_place(dtype):
    values = np.arange(20_000).astype(dtype)
    known = {checksums.checksum(values)}
    for place in (0, 9_999, 19_999):
        changed = values.copy()
        changed.view(np.uint8)[place] ^= 1
        known.add(checksums.checksum(changed))
    exchanged = values.copy()
    exchanged[[0, 4_097]] = exchanged[[4_097, 0]]
    known.add(checksums.checksum(exchanged))
    assert len(known) == 5
    assert checksums.checksum(np.zeros((), dtype)) != checksums.checksum(np.zeros(2, dtype))


@pytest.mark.parametrize(
    "name", ["run[1]", "*", "a?{b,c}", "-x y", "%41#", "größe\n日本", "gs", "8", "n" * 255]
)
def test_a_name_of_a_workdir_is_never_a_pattern(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    link = tmp_path / "link[0]"
    link.symlink_to(folder)
    for workdir in (folder, link):
        prove_saving(workdir, make_placement().replicated, SINGLE_PROCESS)
        with opened(workdir) as checkpoints:
            checkpoints.save(random_state(8), {}, best=0.5)
        assert restored(workdir)[0] == 8
    assert [p.name for p in folder.iterdir()] == ["checkpoints"]


def test_a_start_proves_that_a_save_can_be_read_back(tmp_path, monkeypatch):
    """With etils's own glob, the save ends without an error, and nothing can be read."""
    sharding, folder = make_placement().replicated, tmp_path / "run[1]"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "LiteralPath", epath.Path)
        with pytest.raises(CheckpointError, match=r"(?s)cannot be saved in .*Nothing was computed"):
            prove_saving(folder, sharding, SINGLE_PROCESS)
    with pytest.raises(CheckpointError, match="backslash"):
        prove_saving(tmp_path / "a\\b", sharding, SINGLE_PROCESS)
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "the disk is full"),
        (ValueError("Failed to write: No space left [os_error_code='28']"), "the disk is full"),
        (OSError(errno.EIO, "Input/output error", "x"), "check the disk or the network"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), "quota"),
    ],
)
def test_full_is_said_of_a_full_disk_only(error, advice):
    text = str(not_written("checkpoint 8", error, [4]))
    assert advice in text
    assert ("full" in text) == (advice == "the disk is full")
    assert "the last complete one is step 4" in text
