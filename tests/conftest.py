"""Test set-up: eight fake CPU devices, strict shapes and dtypes, one compilation cache per test session."""

import dataclasses
import functools
import os
import pickle
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
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_unconfigure():
    """Removes the cache in the process that made it: the one that ends last."""
    if _OWN_CACHE is not None:
        shutil.rmtree(_OWN_CACHE, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _equal_programs_are_lowered_once():
    """Runs whose configs agree in all that a program depends on share it, traced and lowered once.

    Tracing and lowering take most of a tiny run's time. Each run still compiles and executes its programs. A
    test of what is traced calls the method below: `Experiment.lower_train.__wrapped__(experiment)`.
    """
    from jaxcnn.evaluation import Forward
    from jaxcnn.models import googlenet
    from jaxcnn.training.experiment import Experiment

    not_traced = ("seed", "epochs", "init", "data", "evals", "checkpoint", "log")

    def of_experiment(experiment):
        config = {k: v for k, v in experiment.config.items() if k not in not_traced}
        preprocess = pickle.dumps(dataclasses.asdict(experiment.device_preprocess))
        options = tuple(sorted(experiment.compiler_options.items()))
        mesh = experiment.placement.mesh
        return experiment.net, str(config), str(experiment.plan), preprocess, mesh, options

    def of_forward(forward, params, shape):
        leaves = str(jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), params))
        return (
            forward.net,
            forward.mean.tobytes(),
            forward.placement.mesh,
            forward.rows(shape),
            shape,
            leaves,
        )

    def shared(lower, key_of):
        lowered = {}

        @functools.wraps(lower)
        def once(*arguments):
            modules = tuple(googlenet.INCEPTION)  # a test may leave some out
            key = (os.environ.get("JAXCNN_KERNELS"), modules, *key_of(*arguments))
            if key not in lowered:
                lowered[key] = lower(*arguments)
            return lowered[key]

        return once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "lower_train", shared(Experiment.lower_train, of_experiment))
        patch.setattr(Forward, "lower", shared(Forward.lower, of_forward))
        yield


@pytest.fixture(scope="session")
def _object_store():
    """An object store on this machine, which this process and its children use from here on."""
    from tests import buckets

    server = buckets.Server()
    proxy = buckets.Proxy(server)
    os.environ.update(buckets.environment(proxy.url))
    yield proxy
    proxy.close()
    server.close()


@pytest.fixture
def bucket_proxy(_object_store):
    """The proxy before the object store (see `buckets.Proxy`), which behaves well again after the test."""
    _object_store.requests.clear()
    yield _object_store
    _object_store.behave()


@pytest.fixture
def bucket(bucket_proxy):
    """The path of a new bucket."""
    return bucket_proxy.server.make_bucket()
