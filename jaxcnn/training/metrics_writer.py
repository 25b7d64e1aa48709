"""metrics.jsonl and TensorBoard events, written to the workdir, or for one in a bucket uploaded to it.

The only module that touches clu. clu's writers need TensorFlow and are imported inside a run only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jaxcnn.data.tensorflow import load_tensorflow
from jaxcnn.files import system_error, writing
from jaxcnn.parallel import ProcessGroup
from jaxcnn.paths import Path, is_remote
from jaxcnn.training.metrics_file import read_events, recover_events, write_events
from jaxcnn.training.uploads import Uploads
from jaxcnn.training.workdir_lease import Lease


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What a run logs.

    Attributes:
        every_steps: steps between train events in metrics.jsonl, each the mean over those steps.
        tensorboard: write TensorBoard events too.
        slow_step: a step that takes this many times the median, and at least ten seconds, prints the
            stacks of all threads to standard error; 0 turns this off.
        upload_seconds: with a workdir in a bucket, metrics.jsonl and TensorBoard events there lack at most
            what was written in the last `upload_seconds`. They are also uploaded after each evaluation and
            before each save.
    """

    every_steps: int = 20
    tensorboard: bool = True
    slow_step: float = 20.0
    upload_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1, got {self.every_steps}")
        if not (self.slow_step == 0 or self.slow_step >= 2):
            raise ValueError(f"slow_step must be 0 or at least 2, got {self.slow_step:g}")
        if not self.upload_seconds >= 1:
            raise ValueError(f"upload_seconds must be at least 1, got {self.upload_seconds:g}")


class MetricsWriter:
    """Appends events to metrics.jsonl, and to TensorBoard. Only process 0 writes."""

    def __init__(
        self,
        workdir: Path,
        tensorboard: bool,
        process_group: ProcessGroup,
        *,
        upload_seconds: float = 60.0,
        lease: Lease | None = None,
    ) -> None:
        """`lease`, of a workdir in a bucket, is confirmed before each upload."""
        self.path = workdir / "metrics.jsonl"
        self._process_group, self._board, self._lease = process_group, None, lease
        self._failure: OSError | None = None
        self._file, self._uploads, self._spool = self.path, None, None
        if is_remote(workdir) and process_group.is_primary:
            self._spool = tempfile.TemporaryDirectory(prefix="jaxcnn-run-")
            spool = pathlib.Path(self._spool.name, "files")
            spool.mkdir()
            self._file = spool / self.path.name
            # What is flushed is half of what is late, so twice in the time.
            self._flush_seconds, self._flushed = upload_seconds / 2, time.monotonic()
            self._uploads = Uploads(spool, workdir, upload_seconds / 2, lease)
        if tensorboard and process_group.is_primary:
            logging.getLogger("absl").setLevel(logging.ERROR)
            load_tensorflow()  # with our settings, before clu imports it
            from clu import metric_writers

            with _board_errors(workdir):
                events = metric_writers.SummaryWriter(str(self._file.parent))
            self._board = metric_writers.AsyncMultiWriter([events])

    def truncate(self, step: int) -> list[dict[str, Any]]:
        """Removes the events after `step`, which a resumed run writes again; returns the others."""

        # Returns no events: the other processes read the file.
        def recover() -> None:
            kept = recover_events(self.path, step)
            if self._uploads is not None:
                whole = self._file.parent.with_name(self._file.name)  # outside of what is uploaded
                write_events(whole, kept)
                whole.rename(self._file)

        self._process_group.run_on_primary(recover)
        return read_events(self.path)

    def write(self, event: Mapping[str, Any]) -> None:
        """Appends an event: `kind` 'train' or 'eval', `step`, and its values.

        Raises:
            WriteError: it cannot be written. With several processes `check` raises it, since the others, for
                which process 0 writes, must learn of it first.
        """
        if not self._process_group.is_primary:
            return
        try:
            self._write(event)
        except OSError as error:
            if self._process_group.count == 1:
                raise
            self._failure = self._failure or error

    def check(self) -> None:
        """Raises the error of an earlier `write` or upload, if there was one.

        Raises:
            WriteError: it was not written.
            LeaseLost: another run has taken the workdir.
        """
        if self._failure is not None:
            raise self._failure
        if self._lease is not None:
            self._lease.check()
        if self._uploads is not None:
            self._uploads.check()

    def upload(self) -> None:
        """Has everything that was written in the workdir before it returns. All processes must call it.

        Raises: as `check`.
        """
        self._process_group.run_on_primary(self._upload)

    def close(self) -> None:
        if self._board is not None:
            with _board_errors(self.path.parent):
                self._board.close()
        if self._uploads is not None and self._spool is not None:
            self._uploads.close()
            self._spool.cleanup()

    def _upload(self) -> None:
        if self._uploads is None:
            return
        self.check()
        self._flush()
        self._uploads.upload()

    def _flush(self) -> None:
        if self._board is not None:
            with _board_errors(self.path.parent):
                self._board.flush()
        self._flushed = time.monotonic()

    def _write(self, event: Mapping[str, Any]) -> None:
        with writing(self._file), self._file.open("ab") as file:
            file.write(json.dumps(event).encode() + b"\n")
        train = event["kind"] == "train"
        if self._board is not None:
            with _board_errors(self.path.parent):
                prefix = "train" if train else f"{event['split']}/{event['protocol']}"
                values = {k: v for k, v in event.items() if isinstance(v, float) and k != "epoch"}
                scalars = {f"{prefix}/{k}": v for k, v in values.items()}
                self._board.write_scalars(event["step"], scalars)
        if self._uploads is not None and (
            not train or time.monotonic() - self._flushed > self._flush_seconds
        ):
            self._flush()
            self._uploads.request()


@contextlib.contextmanager
def _board_errors(folder: Path) -> Iterator[None]:
    """Turns clu's error of a write in its thread, and TensorFlow's error, into a WriteError."""
    try:
        yield
    except Exception as error:
        first = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        with writing(folder / "events.out.tfevents.*"):
            raise system_error(error) or OSError(first) from error
