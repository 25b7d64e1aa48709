"""Flipped bits, and kills inside saves: each start goes on from an exact state, or says why it does not."""

import contextlib
import itertools
import logging
import os
import random
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn.files import write_text
from jaxcnn.paths import user_path
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.train_state import TrainState
from tests import buckets, forked

pytestmark = pytest.mark.slow

FLIPS, SAVES, KILLS, BUCKET_KILLS = 300, 10, 50, 20


def sharding(spec):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    return NamedSharding(mesh, spec)


REPLICATED, MODEL, BOTH = PartitionSpec(), PartitionSpec(None, "model"), PartitionSpec("data")


def random_state(layout, values, step):
    """A few layers of random sizes, some sharded, some constant, as after a few updates."""

    def leaf(shape, spec):
        drawn = values.normal(0, 0.1, shape).astype(np.float32)
        return jax.device_put(drawn * np.float32(values.random() < 0.8), sharding(spec))

    params, momentum = {}, {}
    for i in range(int(layout.integers(1, 5))):
        rows, columns = 4 * int(layout.integers(1, 60)), 2 * int(layout.integers(1, 200))
        spec = (REPLICATED, MODEL, BOTH)[int(layout.integers(3))]
        for tree in (params, momentum):
            tree[f"fc{i}"] = {
                "kernel": leaf((rows, columns), spec),
                "bias": leaf((columns,), REPLICATED),
            }
    scalars = jnp.int32(step), {"best": jnp.float32(values.random()), "waited": jnp.int32(3)}
    step, plateau = jax.device_put(scalars, sharding(REPLICATED))
    return TrainState(step, params, {"trace": momentum}, plateau, {})


def other_placement(state, generator):
    """The shapes of `state`, on the devices of another run half of the time."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    everywhere = [None, one, sharding(REPLICATED), sharding(BOTH)][int(generator.integers(4))]

    def place(x):
        fits = everywhere and not (x.ndim == 0 or x.shape[0] % 4)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere if fits else x.sharding)

    return jax.tree.map(place, state)


def flip(folder, chance):
    """Flips a bit at a random place; of a random file, or of a random byte of all, each half of the time."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size]
    weights = [f.stat().st_size for f in files] if chance.random() < 0.5 else None
    file = chance.choices(files, weights)[0]
    content = bytearray(file.read_bytes())
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    return file.relative_to(folder), place


def same(a, b):
    return all(
        x.dtype == y.dtype
        and x.shape == y.shape
        and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_no_flipped_bit_gives_wrong_values(tmp_path, capfd, caplog):
    """A start restores the newest state, or the one before and says so, or fails; never other values."""
    generator, chance = np.random.default_rng(0), random.Random(0)
    tops = {8: 0.25, 16: 0.75}
    metas = {8: {"seconds": 1.5, "n": 8}, 16: {"seconds": 2.5, "n": 16}}
    counts = {"unchanged": 0, "older": 0, "error": 0}
    caplog.set_level(logging.CRITICAL, logger="jaxcnn")
    for save in range(SAVES):
        original = tmp_path / f"{save}"
        layout = int(generator.integers(1000))
        states = {
            step: random_state(np.random.default_rng(layout), generator, step) for step in (8, 16)
        }
        steps = (8, 16) if save % 5 else (16,)  # with an earlier good one, or without
        with contextlib.closing(Checkpoints(original)) as checkpoints:
            for step in steps:
                checkpoints.save(states[step], metas[step], best=tops[step])
                checkpoints.wait()
        for _ in range(FLIPS // SAVES):
            folder = shutil.copytree(original, tmp_path / "flipped" / "checkpoints")
            where = flip(folder / "16", chance)
            like = other_placement(states[16], generator)
            try:
                with contextlib.closing(Checkpoints(folder)) as checkpoints:
                    found = checkpoints.restore(like)
                    best = checkpoints.best()
            except CheckpointError:
                counts["error"] += 1
            else:
                state, meta = found
                step = int(state.step)
                assert same(state, states[step]), where
                assert meta == metas[step], where
                assert best == {"step": step, "top1": tops[step]}, where
                counts["unchanged" if step == 16 else "older"] += 1
            shutil.rmtree(tmp_path / "flipped")
    shown = capfd.readouterr()
    with capfd.disabled():
        print(f"\n{FLIPS} flips: {counts}")
    assert shown.out == shown.err == ""
    assert sum(counts.values()) == FLIPS
    assert counts["unchanged"] < FLIPS / 2


def state_of_step(step, size=500_000):
    """A state that anyone can draw again."""
    values = np.random.default_rng(step).normal(size=size).astype(np.float32)
    params = {"fc": {"kernel": jnp.asarray(values), "bias": jnp.ones(3)}}
    return TrainState(jnp.int32(step), params, {}, {}, {})


def save_for_ever(arguments):
    """Saves step after step, and writes which ones are complete into a file."""
    folder, acknowledged = user_path(arguments[0]), Path(arguments[1])
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        found = checkpoints.restore(state_of_step(0))
        first = int(found[0].step) if found else 0
        for step in itertools.count(first + 1):
            checkpoints.save(state_of_step(step), {"step": step})
            if step > first + 1:  # this save waited for the one before
                write_text(acknowledged, str(step - 1))


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_kill_inside_a_save_loses_no_complete_checkpoint(tmp_path, request, place):
    """Of a run that saves all the time and keeps one checkpoint, killed at random moments."""
    around = tmp_path if place == "disk" else request.getfixturevalue("bucket")
    longest, kills = (0.3, KILLS) if place == "disk" else (1.0, BUCKET_KILLS)
    environment = {name: os.environ[name] for name in buckets.environment("") if name in os.environ}
    chance, folder, acknowledged = random.Random(0), around / "checkpoints", tmp_path / "steps"
    for kill in range(kills):
        before = acknowledged.read_text() if acknowledged.exists() else ""
        child = forked.start(
            save_for_ever,
            [folder, acknowledged],
            out=tmp_path / "out",
            err=tmp_path / "err",
            environment=environment,
        )
        limit = time.monotonic() + 60
        while (acknowledged.read_text() if acknowledged.exists() else "") == before:
            assert child.is_alive(), (tmp_path / "err").read_text()
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(chance.uniform(0, longest))
        child.kill()
        child.join()
        complete = int(acknowledged.read_text())
        with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
            state, meta = checkpoints.restore(state_of_step(0))
        step = int(state.step)
        assert step >= complete, kill
        assert meta == {"step": step}
        assert same(state, state_of_step(step)), kill
    assert not (around / "unreadable_checkpoints").exists()
