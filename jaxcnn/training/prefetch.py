"""What each update takes from the host: this process's rows, and whether it asks all to stop.

A process must not leave on its own: the others would wait for it in the update's collectives. So a
signal, or data that cannot be read, travels with the update itself, and every process learns of it from
the sums of the same step.

A thread forms the next batch and puts it on the devices while this one's step runs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxcnn import data as room
from jaxcnn.parallel import ProcessGroup
from jaxcnn.training.builder import Experiment
from jaxcnn.training.signals import Stopped, StopSignal
from jaxcnn.training.step_metrics import StopRequested
from jaxcnn.training.train_state import Controls


class Prefetcher:
    """Batches on the devices, with the controls of each update. Use it in a `with`."""

    def __init__(
        self,
        experiment: Experiment,
        batches: Any,
        stop_signal: StopSignal,
        process_group: ProcessGroup,
    ) -> None:
        self._experiment, self._batches = experiment, batches
        self._stop_signal, self._process_group = stop_signal, process_group
        self._failure: room.DataError | None = None
        self._thread = ThreadPoolExecutor(1, "jaxcnn-feed")
        self._coming = self._thread.submit(self._put_next)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *unused: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def next(self, rate: float, epoch: float) -> tuple[dict[str, Any], Controls]:
        """The next batch, and what its update takes beside it.

        Raises:
            Stopped, DataError: of a process alone, at once.
        """
        if self._process_group.count == 1:
            self._stop_signal.check()
        batch = self._rows()
        controls = self._experiment.put_controls(
            rate, epoch, leave=bool(self._stop_signal.signal), failed=self._failure is not None
        )
        # Last: the thread would keep this one waiting for Python's lock.
        if self._failure is None:
            self._coming = self._thread.submit(self._put_next)
        return batch, controls

    def explain(self, error: Exception) -> None:
        """Raises what stands behind the `Called` that ended training; of another error it says nothing.

        Raises:
            DataError: on every process, where one cannot use its data.
            Stopped: otherwise.
        """
        if not isinstance(error, StopRequested):
            return

        def mine() -> None:
            if self._failure is not None:
                raise self._failure

        self._process_group.run_on_all(mine)
        raise Stopped(
            self._stop_signal.signal
            or self._process_group.stop_requested()
            or "a signal to another process"
        )

    def _put_next(self) -> dict[str, Any]:
        return jax.block_until_ready(self._experiment.placement.put_batch(next(self._batches)))

    def _rows(self) -> dict[str, Any]:
        if self._failure is None:
            try:
                return self._coming.result()
            except room.DataError as error:
                if self._process_group.count == 1:
                    raise
                self._failure = error
        return self._experiment.placement.put_batch(self._empty())

    def _empty(self) -> dict[str, np.ndarray]:
        """Rows that count for nothing, for an update that will not count either."""
        share = self._process_group.count
        return {
            name: np.zeros((s.shape[0] // share, *s.shape[1:]), s.dtype)
            for name, s in self._experiment.abstract_batch().items()
        }
