"""Child processes that need no imports: a server process imports JAX and jaxcnn once and forks each of them.

A fresh Python takes 4 to 8 seconds of processor time for these imports.
"""

import atexit
import multiprocessing
import os
import sys
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["jaxcnn.cli.train", "jaxcnn.training.schema", "tensorflow", "matplotlib.pyplot"]
)


def start(main, arguments, *, out, err, devices=1, cwd=None, environment=None):
    """Starts `main(arguments)`, which returns an exit code, in a process with `devices` fake CPU devices.

    Args:
        main: a function that can be imported by its name.
        out, err: files for what the process prints.
        environment: variables to set; those that JAX reads at its import are without effect.
    """
    for path in (out, err):
        Path(path).touch()
    names = (str(out), str(err), devices, cwd and str(cwd), environment or {})
    process = _SERVER.Process(target=_run, args=(main, list(arguments), *names))
    process.start()
    return process


def _run(main, arguments, out, err, devices, cwd, environment):
    for number, path in ((1, out), (2, err)):
        with open(path, "a", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(environment)
    if cwd:
        os.chdir(cwd)
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    try:
        code = main(arguments)
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
    sys.exit(code)
