"""Files that grow during a run, copied to its workdir in a bucket: object storage cannot append.

They lie in a folder on a local disk, and a thread uploads those that have changed, whole.
"""

from __future__ import annotations

import pathlib
import threading

from jaxcnn import object_store, retries
from jaxcnn.files import writing
from jaxcnn.paths import Path
from jaxcnn.training.workdir_lease import Lease


class Uploads:
    """Uploads the files of a local folder, in a thread, when asked to and every `seconds`.

    An upload that fails is tried again (see `retries`). If all tries fail, the thread ends, and the other
    methods raise its error.
    """

    def __init__(
        self, spool: pathlib.Path, folder: Path, seconds: float, lease: Lease | None
    ) -> None:
        """`lease` is confirmed before each upload."""
        self._spool, self._folder, self._seconds, self._lease = spool, folder, seconds, lease
        self._done: dict[str, tuple[int, int]] = {}  # what was uploaded: name -> time, size
        self._changed = threading.Condition()
        self._asked = self._finished = 0
        self._closed = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="jaxcnn-uploads", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Asks for an upload; returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def upload(self) -> None:
        """Uploads what has changed; returns when it is in the bucket.

        Raises:
            WriteError, LeaseLost: it cannot be uploaded, or an earlier upload failed.
        """
        self.request()
        with self._changed:
            wanted = self._asked
            self._changed.wait_for(lambda: self._finished >= wanted or self._failure is not None)
        self.check()

    def check(self) -> None:
        """Raises the error that ended the uploads, if one did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Uploads what has changed, unless an upload has failed before, which was said then. May be called
        twice."""
        if self._closed:
            return
        try:
            if self._failure is None:
                self.upload()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def _work(self) -> None:
        while not self._closed and self._failure is None:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._asked > self._finished, timeout=self._seconds
                )
                asked = self._asked
            try:
                self._upload_changed()
            except Exception as error:  # of any type: `upload` waits for this thread
                self._failure = error
            with self._changed:
                self._finished = asked
                self._changed.notify_all()

    def _upload_changed(self) -> None:
        for path in sorted(self._spool.iterdir()):
            status = path.stat()
            state = status.st_mtime_ns, status.st_size
            if self._done.get(path.name) == state:
                continue
            target = self._folder / path.name
            content = path.read_bytes()

            def write(target: Path = target, content: bytes = content) -> None:
                if self._lease is not None:
                    self._lease.confirm()  # at each try: another run may have taken the workdir meanwhile
                object_store.write(target, content)

            with writing(target):
                retries.retry(write, target, "write")
            self._done[path.name] = state
