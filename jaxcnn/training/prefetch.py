"""Batches and controls for each update, put on the devices while the previous step runs.

A process must not stop on its own, because the others would wait for it in the update's collectives. So a
signal, or a failure to read data or to write a file, travels with the update, and every process learns of it
from the sums of the same step. A process that waits for a batch, perhaps because a read hangs, gives an empty
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcnn.data import DataError
from jaxcnn.data.threads import ThreadPool
from jaxcnn.parallel import ProcessGroup
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.step_metrics import StopRequested
from jaxcnn.training.train_state import Controls
from jaxcnn.training.workdir_errors import WorkdirError


class Prefetcher:
    """Puts batches on the devices in a thread, one ahead. Use it in a `with`: it closes the batches too."""

    def __init__(
        self,
        experiment: Experiment,
        batches: Any,
        stop_signal: StopSignal,
        process_group: ProcessGroup,
        check_files: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_files` raises an error of this process that the other processes must learn of."""
        self._experiment, self._batches = experiment, batches
        self._stop_signal, self._process_group = stop_signal, process_group
        self._check_files = check_files
        self._failure: Exception | None = None
        self._pool = ThreadPool(1, "jaxcnn-prefetch")
        self._future = self._pool.submit(self._put_next)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *unused: object) -> None:
        self._batches.close()  # first: the thread may wait for its next batch
        self._pool.close()

    def next(self, learning_rate: float, epoch: float) -> tuple[dict[str, Any], Controls]:
        """The next batch and the controls of its update, on the devices.

        Raises:
            Stopped, DataError, OSError, MemoryError, WorkdirError: at once, if this is the only process.
        """
        if self._process_group.count == 1:
            self._stop_signal.check()
        batch = self._next_batch()
        controls = self._experiment.put_controls(
            learning_rate,
            epoch,
            leave=bool(self._stop_signal.signal),
            failed=self._failure is not None,
        )
        # Last, because the thread would keep this one waiting for Python's lock.
        if self._failure is None:
            self._future = self._pool.submit(self._put_next)
        return batch, controls

    def explain(self, error: Exception) -> Exception:
        """The reason for a `StopRequested` that ended training: Stopped, or the failure of this or another
        process. Any other error is returned as it is."""

        def raise_failure() -> None:
            if self._failure is not None:
                raise self._failure

        if not isinstance(error, StopRequested):
            return error
        try:
            self._process_group.run_on_all(raise_failure)
        except Exception as failure:
            return failure
        reasons = [
            reason for reason in self._process_group.gather(self._stop_signal.reason()) if reason
        ]
        return Stopped(reasons[0] if reasons else "a signal to another process")

    def _put_next(self) -> dict[str, Any]:
        return jax.block_until_ready(self._experiment.placement.put_batch(next(self._batches)))

    def _next_batch(self) -> dict[str, Any]:
        if self._failure is None:
            try:
                self._check_files()
                return self._pool.wait_for(self._future, self._stop_signal.check)
            except (Stopped, DataError, OSError, MemoryError, WorkdirError) as error:
                if self._process_group.count == 1:
                    raise
                self._failure = error
        # A batch whose mask is all False, for an update that will not count.
        return self._experiment.placement.put_batch(
            {
                name: np.zeros((s.shape[0] // self._process_group.count, *s.shape[1:]), s.dtype)
                for name, s in self._experiment.abstract_batch().items()
            }
        )
