"""What is wrong with a workdir, in words that say what to do."""

from __future__ import annotations

import errno
import os

from jaxcnn.paths import Path, bucket_and_key, is_remote


class WorkdirError(RuntimeError):
    """A workdir that cannot be used for this run; says what to do."""


class WorkdirInUse(WorkdirError):
    """Another run has the workdir."""


def cannot_write(folder: Path, error: OSError) -> WorkdirError:
    """The error that says why `folder` cannot be written."""
    reason = str(error)
    if is_remote(folder):
        return _of_bucket(folder, error)
    if os.path.islink(folder) and not folder.exists():
        reason = f"it is a link to {os.readlink(folder)}, which does not exist"
    elif folder.exists() and not folder.is_dir():
        reason = "it is a file"
    return WorkdirError(f"cannot write to the workdir {folder}: {reason}; use another --workdir")


def in_use(folder: Path, holder: str) -> WorkdirError:
    """The error of a run that finds another one in its workdir."""
    return WorkdirInUse(
        f"{folder} is in use by {holder}; wait for it, or use another --workdir. If "
        "these processes should train together but each one runs alone, see --distributed"
    )


def _of_bucket(folder: Path, error: OSError) -> WorkdirError:
    reason, (bucket, _) = error.strerror or str(error), bucket_and_key(folder)
    advice = "use another --workdir"
    if error.errno == errno.ENOENT:
        reason = f"there is no bucket {bucket!r}"
        advice = f"make it (gcloud storage buckets create gs://{bucket}), or use another --workdir"
    elif error.errno == errno.EACCES:
        advice = (
            "log in (gcloud auth application-default login), or give the machine's service account the role "
            f"'Storage Object User' on {bucket}"
        )
    elif error.errno != errno.EINVAL:
        advice = "check the network, and give the same command again"
    return WorkdirError(f"cannot write to the workdir {folder}: {reason}; {advice}")
