"""Who may use a workdir: its locks, and folders that cannot be one."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from jaxcnn.training.workdir_lock import LOCK, WorkdirError, lock_workdir

# Locks a folder as a run does whose lock file was removed by hand.
HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print(flush=True); sys.stdin.read()"


def refused(folder):
    with pytest.raises(WorkdirError) as error, lock_workdir(folder):
        pass
    return str(error.value)


def test_the_second_run_is_refused_and_the_first_is_named(tmp_path):
    with lock_workdir(tmp_path):
        assert f"{tmp_path} is in use by process {os.getpid()} of " in refused(tmp_path)
    with lock_workdir(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_lock_file_removed_by_hand_lets_nobody_in(tmp_path):
    with lock_workdir(tmp_path):
        (tmp_path / LOCK).unlink()
        assert f"{tmp_path} is in use by another process; wait for it" in refused(tmp_path)
        assert not (tmp_path / LOCK).exists()


def test_the_lock_of_another_process_ends_with_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert "is in use by another process" in refused(tmp_path)
        other.kill()
    with lock_workdir(tmp_path):
        pass


def test_a_stale_lock_file_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_text("process 1 of a machine that is off\n")
    with lock_workdir(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} of ")


def test_a_lock_file_of_another_run_is_not_removed(tmp_path):
    with lock_workdir(tmp_path):
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).write_text("process 1 of a machine\n")
    assert (tmp_path / LOCK).read_text() == "process 1 of a machine\n"


def test_a_file_system_that_cannot_lock_folders_still_locks_the_file(tmp_path, monkeypatch):
    """As NFS, where only a file that is open for writing can be locked."""
    flock = fcntl.flock

    def of_nfs(file, kind):
        if not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    with lock_workdir(tmp_path):
        assert f"is in use by process {os.getpid()} of " in refused(tmp_path)


def test_workdirs_that_are_not_folders(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name, reason in {
        "file": "it is a file",
        "link": f"it is a link to {tmp_path / 'nothing'}, which does not exist",
        "file/run": "Not a directory",
    }.items():
        message = refused(tmp_path / name)
        assert f"cannot write to the workdir {tmp_path / name}: " in message
        assert reason in message
        assert "use another --workdir" in message


@pytest.mark.parametrize("refuses", ["mkdir", "open"])
def test_a_workdir_without_permission_to_write(tmp_path, monkeypatch, refuses):
    """Tests may run as root, whom no permission stops."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, refuses, refuse)
    message = refused(tmp_path / "run")
    assert f"cannot write to the workdir {tmp_path / 'run'}: [Errno 13]" in message


def test_a_workdir_whose_name_is_not_utf8_is_refused_before_anything_is_made(tmp_path):
    folder = tmp_path / os.fsdecode(b"run\xff")
    assert rf"{tmp_path}/run\xff, is not UTF-8" in refused(folder)
    assert not folder.exists()
