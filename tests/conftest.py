"""Test set-up: eight fake CPU devices, strict shapes and dtypes, one compilation cache per test session."""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

# The tests and the programs that they start compile the same small steps again and again. pytest reads this
# file before it starts pytest-xdist's workers, which inherit the environment: all share one folder.
# Compilations under 0.3 s are not kept: writing them takes longer than they save (0 and 0.1 were tried).
_OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _OWN_CACHE = tempfile.mkdtemp(prefix="jaxcnn-test-cache-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _OWN_CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

# Tests spend most of their time compiling. Without LLVM's optimisations they compile about three times faster
# and round differently from optimised programs, which no test may depend on. To test those instead (as
# make test-slow does): JAX_DISABLE_MOST_OPTIMIZATIONS=false.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax  # noqa: E402  (JAX reads the environment when it is imported)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_unconfigure():
    """Removes the cache in the process that made it: the one that ends last."""
    if _OWN_CACHE is not None:
        shutil.rmtree(_OWN_CACHE, ignore_errors=True)
