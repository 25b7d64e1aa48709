"""Batches and controls for each update, put on the devices while the previous step runs.

A process must not stop on its own, because the others would wait for it in the update's collectives. So a
signal, or a failure to read data, travels with the update, and every process learns of it from the sums of
the same step.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxcnn.data import DataError
from jaxcnn.parallel import ProcessGroup
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.step_metrics import StopRequested
from jaxcnn.training.train_state import Controls


class Prefetcher:
    """Puts batches on the devices in a thread, one ahead. Use it in a `with`."""

    def __init__(
        self,
        experiment: Experiment,
        batches: Any,
        stop_signal: StopSignal,
        process_group: ProcessGroup,
    ) -> None:
        self._experiment, self._batches = experiment, batches
        self._stop_signal, self._process_group = stop_signal, process_group
        self._failure: DataError | None = None
        self._thread = ThreadPoolExecutor(1, "jaxcnn-prefetch")
        self._future = self._thread.submit(self._put_next)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *unused: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def next(self, learning_rate: float, epoch: float) -> tuple[dict[str, Any], Controls]:
        """The next batch and the controls of its update, on the devices.

        Raises:
            Stopped, DataError: at once, if this is the only process.
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
            self._future = self._thread.submit(self._put_next)
        return batch, controls

    def explain(self, error: Exception) -> None:
        """Raises the reason for a `StopRequested` that ended training; ignores other errors.

        Raises:
            DataError: on every process, if one cannot use its data.
            Stopped: otherwise.
        """

        def raise_failure() -> None:
            if self._failure is not None:
                raise self._failure

        if not isinstance(error, StopRequested):
            return
        self._process_group.run_on_all(raise_failure)
        raise Stopped(
            self._stop_signal.signal
            or self._process_group.stop_requested()
            or "a signal to another process"
        )

    def _put_next(self) -> dict[str, Any]:
        return jax.block_until_ready(self._experiment.placement.put_batch(next(self._batches)))

    def _next_batch(self) -> dict[str, Any]:
        if self._failure is None:
            try:
                return self._future.result()
            except DataError as error:
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
