"""Huge pages: the environment of a program to be started, re-execution, and returned memory."""

import os
import platform
import subprocess
import sys

import pytest

from jaxcnn.malloc_tuning import SETTING, VARIABLE, large_pages, start_again_with_large_pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_setting_is_added_once_and_the_users_stay():
    environment = {}
    assert large_pages(environment)
    assert environment == {VARIABLE: SETTING}
    assert not large_pages(environment)
    own = {VARIABLE: "glibc.malloc.check=1"}
    assert large_pages(own)
    assert own[VARIABLE] == f"glibc.malloc.check=1:{SETTING}"
    chosen = {VARIABLE: "glibc.malloc.hugetlb=0"}
    assert not large_pages(chosen)


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    environment = {}
    assert not large_pages(environment)
    assert environment == {}


@pytest.fixture
def executed(monkeypatch):
    """Argument lists given to a replaced `os.execv`, with no debugger, profiler or setting present."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(sys, "getprofile", lambda: None)
    for name in ("pdb", "pydevd", "debugpy", "cProfile"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv(VARIABLE, "")  # restored after the test
    return calls


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_program_without_the_setting_is_executed_again_once(executed):
    start_again_with_large_pages()
    assert executed == [sys.orig_argv]
    start_again_with_large_pages()
    assert executed == [sys.orig_argv]


@pytest.mark.parametrize("hook", ["gettrace", "getprofile"])
def test_no_execution_under_a_tracer_or_profiler(hook, executed, monkeypatch):
    monkeypatch.setattr(sys, hook, lambda: print)
    start_again_with_large_pages()
    assert executed == []


@pytest.mark.parametrize("module", ["pdb", "pydevd", "debugpy", "cProfile"])
def test_no_execution_with_a_debugger_loaded(module, executed, monkeypatch):
    monkeypatch.setitem(sys.modules, module, sys)
    start_again_with_large_pages()
    assert executed == []


def test_help_does_not_wait_for_jax():
    code = (
        "import sys; sys.argv = ['main.py', '--help']\n"
        "from pathlib import Path\n"
        "from jaxcnn.cli.main import main\n"
        "try:\n    main(['train', '--help'])\n"
        "except SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'jax', 'flax', 'tensorflow', 'orbax'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


FREED = """
import ctypes
from jaxcnn.malloc_tuning import give_back_freed

def resident():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) // 1024

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 64 * 1024  # small enough that each is not a mapping of its own, which would go back by itself
blocks = [libc.malloc(size) for _ in range(1600)]
for block in blocks:
    ctypes.memset(block, 1, size)
for block in blocks[:-1]:  # above the last one the heap cannot shrink
    libc.free(block)
before = resident()
give_back_freed()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_was_freed_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 90, "of 100 MiB"
