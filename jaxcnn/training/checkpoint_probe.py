"""Proves, before anything is computed, that checkpoints of a workdir can be written and read back."""

from __future__ import annotations

import contextlib

import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxcnn.parallel import ProcessGroup, put
from jaxcnn.paths import Path
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.checkpoint_files import remove_tree
from jaxcnn.training.train_state import TrainState


def prove_saving(folder: Path, sharding: NamedSharding, group: ProcessGroup) -> None:
    """Saves a few numbers in the workdir `folder` as a checkpoint, and reads them back. All must call it.

    Args:
        sharding: of arrays that all devices of the run hold.

    Raises:
        CheckpointError: they cannot be written or read there.
    """
    if "\\" in str(folder):
        raise CheckpointError(
            f"the workdir {str(folder)!r} has a backslash in its name, which TensorStore, the library that "
            "writes checkpoints, takes for a slash; use another --workdir"
        )
    probe = folder / ".checkpoint_probe"
    remove = lambda: remove_tree(probe)  # noqa: E731
    group.run_on_primary(remove)
    empty = {"opt_state": {}, "plateau": {}, "average": {}}
    make = lambda x: put(x, sharding)  # noqa: E731
    state = TrainState(step=make(jnp.int32(1)), params={"probe": make(jnp.arange(8.0))}, **empty)

    def save_and_restore() -> None:
        with contextlib.closing(Checkpoints(probe, process_group=group)) as checkpoints:
            checkpoints.save(state, {})
            checkpoints.wait()
            if checkpoints.restore(state) is None:
                raise CheckpointError("what was saved is not there")

    try:
        # No process removes what another one still reads.
        group.run_on_all(save_and_restore)
    except (OSError, ValueError, CheckpointError) as error:
        raise CheckpointError(
            f"checkpoints cannot be saved in {folder} and read back: {error}\nNothing was computed; use "
            "another --workdir"
        ) from error
    finally:
        group.run_on_primary(remove)
