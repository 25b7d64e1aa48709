"""Checkpoints (Orbax): complete states, the latest ones and the best, restored exactly or not at all."""

from __future__ import annotations

import dataclasses
import errno
import logging
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxcnn.parallel import SINGLE_PROCESS, PeersLost, ProcessGroup
from jaxcnn.paths import Path, is_remote
from jaxcnn.training import checkpoint_files as files
from jaxcnn.training import checksums
from jaxcnn.training.checkpoint_errors import (
    CheckpointError,
    not_for_this_process,
    not_written,
    other_net,
    unreadable,
)
from jaxcnn.training.disk_errors import is_about_this_process, short
from jaxcnn.training.orbax_manager import OrbaxManager
from jaxcnn.training.retention import Retention
from jaxcnn.training.store_watch import StoreWatch
from jaxcnn.training.train_state import TrainState, describe_leaves


class Checkpoints:
    """The checkpoints of one workdir. Saves are asynchronous; `close` waits for the last one.

    Attributes:
        notices: what was wrong with checkpoints, for the console.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        read_only: bool = False,
        process_group: ProcessGroup = SINGLE_PROCESS,
        images: str = "",
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        """All processes of a group must call every method except `steps`; they share one folder.

        Args:
            folder: of the checkpoints.
            keep: number of latest ones that stay.
            read_only: nothing in `folder` changes.
            process_group: the processes that save together.
            images: the digest of the training and held-out images. The accuracy of a checkpoint that was
                evaluated on other ones is not compared.
            confirm: raises if this run may not write here any more; asked before anything is written or
                deleted.
        """
        self._process_group, self._read_only, self._confirm = process_group, read_only, confirm
        # Orbax rejects relative paths, but only later.
        self.folder = folder if is_remote(folder) else folder.absolute()
        self.notices: list[str] = []
        self._watch = StoreWatch(self.folder, process_group)
        if not read_only:
            self._on_primary(lambda: files.put_back_replaced(self.folder))
        self._images = images
        known = self._on_primary(lambda: sorted(files.known_top1(self.folder, images).items()))
        self._retention = Retention(keep, dict(known))
        self._manager = OrbaxManager(self._watch, self._retention, read_only)
        self._last: int | None = None  # the step of the latest save, which may still be in progress

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in ascending order."""
        return self._watch.call(lambda: files.complete_steps(self.folder))

    def save(self, state: TrainState, meta: Mapping[str, Any], best: float | None = None) -> None:
        """Saves `state` under its step, with checksums. A step that is already saved is not written again.

        Args:
            state: arrays on devices; they may be donated after this returns.
            meta: JSON values saved with the state.
            best: top-1 on the held-out images, if there are any; the checkpoint with the highest is kept.

        Raises:
            CheckpointError: this or an earlier save could not be written.
        """
        step, primary = int(state.step), self._on_primary
        if step == self._last:
            return
        if is_remote(self.folder) and self._last is not None:
            # In a bucket a save that goes on looks like one that was interrupted.
            self.wait()
        try:
            exists = primary(lambda: step in files.complete_steps(self.folder))
            if exists and (best is None or step in self._retention.top1):
                return
            self._process_group.run_on_primary(self._confirm)
            primary(lambda: self._make_room(step, state))
            if exists:  # a stop saved it before the held-out images were evaluated
                primary(lambda: files.move_replaced(self.folder, step))
                self._manager.reload()
        except OSError as error:
            raise self._not_written(f"checkpoint {step}", error) from error
        sums = checksums.merge(
            self._process_group.gather_results(lambda: checksums.local_checksums(state))
        )
        saved = files.SavedMeta(
            {**meta, "images": self._images}, best, describe_leaves(state), sums
        )
        if best is not None:
            self._retention.top1[step] = best
        try:
            self._manager.save(step, state, saved.sealed())
            self._last = step
        except Exception as error:
            raise self._not_written(f"checkpoint {step}", error) from error

    def wait(self) -> None:
        """Waits until the last save is complete on disk."""
        try:
            self._manager.wait()
        except Exception as error:
            raise self._not_written("a checkpoint", error) from error
        if not self._read_only:
            self._on_primary(self._tidy)

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the newest complete checkpoint (or that of `step`) and its meta; None if there is none.

        Every array is compared with its checksum. A checkpoint that cannot be read, or differs, is moved
        aside if an older one is good, and `notices` says so; with `read_only` it is an error.

        Args:
            like: shapes, dtypes and shardings of the restored arrays.
            step: step to restore; None takes the newest checkpoint that can be read.

        Raises:
            CheckpointError: the checkpoint belongs to another net (the message lists names and shapes that
                differ), or no checkpoint can be read.
        """
        failures: dict[int, str] = {}
        candidates = self._process_group.run_on_primary(self.steps) if step is None else [step]
        for candidate in reversed(candidates):
            try:
                found = self._read(candidate, like)
            except (CheckpointError, MemoryError, PeersLost):
                raise
            except Exception as error:
                if is_about_this_process(error, is_remote(self.folder)):
                    what = f"checkpoint {candidate} in {self.folder}"
                    raise not_for_this_process(what, error) from error
                failures[candidate] = short(error)
                if self._read_only:
                    raise unreadable(self.folder, failures, self.steps()) from error
                continue
            self._set_aside(failures, candidate)
            return found
        if failures:
            raise unreadable(self.folder, failures, self.steps())
        self._set_aside({}, None)
        return None

    def best(self) -> dict[str, Any] | None:
        """`step` and `top1` of the best checkpoint on the held-out images; None if none was evaluated."""
        step = self._retention.best(self.steps())
        return None if step is None else {"step": step, "top1": self._retention.top1[step]}

    def close(self) -> None:
        """Waits for the last save. Raises CheckpointError if it could not be written."""
        try:
            if not self._watch.lost:
                self._manager.close()
        except Exception as error:
            raise self._not_written("a checkpoint", error) from error
        finally:
            if self._process_group.is_primary and not self._read_only and not self._watch.lost:
                self._watch.call(self._tidy)

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores and verifies a checkpoint; in steps, so that all processes leave together at an error."""
        together = self._process_group.run_on_all
        saved = together(lambda: self._watch.call(lambda: files.read_meta(self.folder, step)))
        together(lambda: self._check_fits(step, like, saved))
        state = together(lambda: self._manager.restore(step, like))
        if int(state.step) != step:
            raise ValueError(f"it holds the state of step {int(state.step)}")
        meta = {key: value for key, value in saved.meta.items() if key != "images"}
        if not saved.leaves:
            self._notice(
                f"checkpoint of step {step} has no checksums, since an earlier version of jaxcnn wrote it: "
                "damage to it would not be noticed"
            )
            return state, meta
        found = self._process_group.gather_results(
            lambda: checksums.damaged_leaves(state, saved.checksums)
        )
        damaged = [name for name in saved.leaves if any(name in names for names in found)]
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
            raise ValueError(f"damaged: {', '.join(damaged[:3])}{more} differ from what was saved")
        return state, meta

    def _set_aside(self, corrupt: Mapping[int, str], good: int | None) -> None:
        """Moves away what cannot be read, so that its steps can be saved again. The checkpoint from which the
        run goes on stays until a later start has read a newer one."""
        if self._read_only:
            return
        primary = self._on_primary
        incomplete = primary(lambda: files.incomplete_entries(self.folder, good))
        for step, problem in [*corrupt.items(), *incomplete]:
            aside = primary(lambda step=step: str(files.set_aside(self.folder, step)))
            self._retention.top1.pop(step, None)
            after = "" if step not in corrupt else f"; resuming from the previous one, step {good}"
            self._notice(
                f"checkpoint of step {step} cannot be read ({problem}){after}; it was moved to {aside}"
            )
        if corrupt:
            self._retention.pinned = good
        self._manager.reload()

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        logging.getLogger("jaxcnn").warning("%s", text)

    def _check_fits(self, step: int, like: TrainState, saved: files.SavedMeta) -> None:
        old, new, ignored = saved.leaves, describe_leaves(like), ()
        if not old:
            found = self._manager.saved_tree(step)
            if found is None:
                raise ValueError("the saved state has no metadata")
            wanted = {field.name: getattr(like, field.name) for field in dataclasses.fields(like)}
            old, new = describe_leaves(found), describe_leaves(wanted)
            ignored = ("opt_state",)  # Orbax's names of its parts differ
        if problem := other_net(f"checkpoint {step} in {self.folder}", old, new, ignored):
            raise problem

    def _make_room(self, step: int, state: TrainState) -> None:
        if is_remote(self.folder):
            self._tidy()
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < needed * 1.05:
            text = f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free"
            raise self._not_written(f"checkpoint {step}", OSError(errno.ENOSPC, text))

    def _tidy(self) -> None:
        """Ends what a replacement began; deletes old checkpoints in a bucket, where Orbax does not."""
        self._confirm()
        try:
            files.put_back_replaced(self.folder)
            if is_remote(self.folder):
                steps = files.complete_steps(self.folder)
                kept = self._retention.kept(steps)
                files.remove_steps(self.folder, [step for step in steps if step not in kept])
        except OSError as error:
            raise self._not_written("a checkpoint", error) from error

    def _on_primary(self, work: Callable[[], Any]) -> Any:
        return self._process_group.run_on_primary(lambda: self._watch.call(work))

    def _not_written(self, what: str, error: Exception) -> CheckpointError:
        what = f"{what} could not be written to {self.folder}"
        if self._watch.lost:
            return not_written(what, error, None)
        try:
            return not_written(what, error, self.steps())
        except OSError:
            return not_written(what, error, None)
