"""Orbax's CheckpointManager, as jaxcnn uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

from jaxcnn.paths import is_remote
from jaxcnn.training import checkpoint_files
from jaxcnn.training.library_logs import silence_orbax
from jaxcnn.training.retention import Retention
from jaxcnn.training.store_watch import StoreWatch
from jaxcnn.training.train_state import TrainState


class OrbaxManager:
    """Saves and restores states by their step. All processes of a group must call each method.

    Orbax deletes old checkpoints on a disk; in a bucket it would need the right to look at the bucket's
    settings, and delete the mark of a complete one at any time, so `Checkpoints` does it.
    """

    def __init__(self, watch: StoreWatch, retention: Retention, read_only: bool) -> None:
        silence_orbax()
        self._watch, folder = watch, watch.folder
        policy = None if is_remote(folder) else retention
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, create=not read_only, read_only=read_only
        )
        # Given here too, because a manager that has not saved yet needs them to read metadata.
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        path = folder if is_remote(folder) else checkpoint_files.LiteralPath(folder)
        self._manager = self._watch.call(
            lambda: ocp.CheckpointManager(path, options=options, item_handlers=handlers)
        )

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Begins a save, after the last one is complete. Raises the error of an earlier one."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))

        def save() -> None:
            self._manager.check_for_errors()
            self._manager.save(step, args=items, force=True)

        self._watch.call(save)

    def wait(self) -> None:
        """Waits until the last save is complete; raises its error."""

        def wait() -> None:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

        self._watch.call(wait)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return self._watch.call(lambda: self._manager.restore(step, args=items)["state"])

    def saved_tree(self, step: int) -> Any:
        """Shapes and dtypes of the state of a step, as Orbax has them; None if it has none."""
        found = self._watch.call(lambda: self._manager.item_metadata(step)["state"])
        return None if found is None else found.tree

    def reload(self) -> None:
        """Looks again which steps there are."""
        self._watch.call(self._manager.reload)

    def close(self) -> None:
        """Waits for the last save; raises its error."""
        self._watch.call(self._manager.close)
