"""Checkpoints (Orbax): complete states, the latest ones and the best, restored exactly or not at all."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup
from jaxcnn.training.train_state import TrainState, describe_leaves


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or used with this net; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When states are saved and how many are kept. The end of a run and a stop always save.

    Attributes:
        every_epochs: epochs between saves.
        keep: number of latest checkpoints kept, in addition to the best one on `data.held_out` images.
    """

    every_epochs: float = 1.0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every_epochs <= 0:
            raise ValueError(f"every_epochs must be above 0, got {self.every_epochs}")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")


class Checkpoints:
    """The checkpoints of one workdir. Saves are asynchronous; `close` waits for the last one."""

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        read_only: bool = False,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """All processes of a group must call every method except `steps`; they share one folder."""
        _silence_orbax()
        self._process_group, self._read_only = process_group, read_only
        self.folder = folder.absolute()  # Orbax rejects relative paths, but only later
        top1 = lambda metrics: metrics["top1"]  # noqa: E731
        best = policies.BestN(get_metric_fn=top1, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=top1,  # without it Orbax keeps metrics in memory only
            create=not read_only,
            read_only=read_only,
        )
        # Given here too, because a manager that has not saved yet needs them to read metadata.
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        self._last: int | None = None  # the step of the latest save, which may still be in progress

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in ascending order."""
        found = self._manager.all_steps()
        return sorted(step for step in found if (self.folder / str(step) / "state").is_dir())

    def save(self, state: TrainState, meta: Mapping[str, Any], best: float | None = None) -> None:
        """Saves `state` under its step. A step that is already saved is not written again.

        Args:
            state: arrays on devices; they may be donated after this returns.
            meta: JSON values saved with the state.
            best: top-1 on the held-out images, if there are any; the checkpoint with the highest is kept.

        Raises:
            CheckpointError: this or an earlier save could not be written.
        """
        step, primary = int(state.step), self._process_group.run_on_primary
        if step == self._last:
            return
        if primary(lambda: step in self.steps()):
            if best is None or primary(lambda: bool(self._manager.metrics(step))):
                return
            self._manager.delete(step)  # a stop saved it before the held-out images were evaluated
        primary(lambda: self._check_space(step, state))
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
        )
        metrics = None if best is None else {"top1": best}
        try:
            self._manager.check_for_errors()
            self._manager.save(step, args=items, metrics=metrics, force=True)
            self._last = step
        except Exception as error:
            raise self._not_written(f"checkpoint {step}", error) from error

    def wait(self) -> None:
        """Waits until the last save is complete on disk."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._not_written("a checkpoint", error) from error

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the newest complete checkpoint (or that of `step`) and its meta; None if there is none.

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
                found = self._process_group.run_on_all(partial(self._read, candidate, like))
            except (CheckpointError, MemoryError):
                raise
            except Exception as error:
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise
                failures[candidate] = _first_line(error)
                continue
            self._process_group.run_on_primary(lambda: self._set_aside(failures))
            if failures and not self._read_only:
                self._manager.reload()
            return found["state"], found["meta"]
        if failures:
            lines = [f"  step {step}: {problem}" for step, problem in failures.items()]
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read:\n" + "\n".join(lines) + "\n"
                "check the disk, and compare the installed versions with run.json; or train in "
                "another --workdir. Nothing was changed"
            )
        return None

    def best(self) -> dict[str, Any] | None:
        """`step` and `top1` of the best checkpoint on the held-out images; None if none was evaluated."""
        step = self._manager.best_step()
        metrics = None if step is None else self._manager.metrics(step)
        return {"step": step, "top1": metrics["top1"]} if metrics else None

    def close(self) -> None:
        self._manager.close()

    def _set_aside(self, corrupt: Mapping[int, str]) -> None:
        """Warns about corrupt checkpoints newer than the restored one, and moves them away, so that their
        steps can be saved again."""
        for step, problem in corrupt.items():
            text = f"checkpoint of step {step} cannot be read ({problem}); resuming from the previous one"
            if not self._read_only:
                aside = self.folder.with_name("unreadable_checkpoints")
                aside.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(aside / f"{step}_{time.time_ns()}")
                text += f"; it was moved to {aside}"
            logging.getLogger("jaxcnn").warning("%s", text)

    def _read(self, step: int, like: TrainState) -> Any:
        self._check_fits(step, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore()
        )
        return self._manager.restore(step, args=items)

    def _check_fits(self, step: int, like: TrainState) -> None:
        saved = self._manager.item_metadata(step)["state"]
        if saved is None:
            raise ValueError("the saved state has no metadata")
        wanted = {field.name: getattr(like, field.name) for field in dataclasses.fields(like)}
        old, new = describe_leaves(saved.tree), describe_leaves(wanted)
        lines = [
            f"  {name}: checkpoint has {old.get(name, 'nothing')}, the config's net needs "
            f"{new.get(name, 'nothing')}"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name) and not name.startswith("opt_state")
        ]
        if lines:
            more = [f"  and {len(lines) - 8} more"] if len(lines) > 8 else []
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} belongs to another net:\n"
                + "\n".join(lines[:8] + more)
                + "\nuse the config that it was trained with, or another --workdir"
            )

    def _check_space(self, step: int, state: TrainState) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < needed * 1.05:
            error = OSError(f"{needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free")
            raise self._not_written(f"checkpoint {step}", error)

    def _not_written(self, what: str, error: Exception) -> CheckpointError:
        steps = self.steps()
        left = f"the last complete one is step {steps[-1]}" if steps else "there is no complete one"
        return CheckpointError(
            f"{what} could not be written to {self.folder}: {_first_line(error)}\n"
            f"{left}; if the disk is full, make room on the disk (or choose another --workdir), then run "
            "the same command again to resume"
        )


def _silence_orbax() -> None:
    """Orbax logs each save, and prints a long traceback for an exception in one of its threads, although
    `wait` and `save` raise that exception too."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    before = threading.excepthook
    if getattr(before, "__module__", "") == __name__:
        return

    def hook(failed: threading.ExceptHookArgs, /) -> None:
        if not type(failed.thread).__module__.startswith("orbax"):
            before(failed)

    threading.excepthook = hook


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
