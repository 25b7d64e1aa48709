"""Each process uses its share of a node's GPUs; the hosts of a TPU slice are detected."""

import http.server
import os
import threading

import jax
import pytest
from jax._src.distributed import State

from jaxcnn.parallel import accelerators
from jaxcnn.parallel.accelerators import task_gpus
from jaxcnn.parallel.distributed import Processes, StartError, parse, start
from tests.parallel.launchers import GKE, OPEN_MPI_5, SLICES, SRUN, TORCHRUN, free_port


@pytest.mark.parametrize(
    ("environment", "task", "tasks", "expected"),
    [
        # A task alone on its node uses all.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 1, None),
        # Every task sees all GPUs: an even share, as indices into the visible ones.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 4, (0,)),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 3, 4, (3,)),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 1, 2, (2, 3)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f,GPU-a1"}, 1, 2, (1,)),
        ({"SLURM_GPUS_ON_NODE": "8"}, 1, 2, (4, 5, 6, 7)),
        (
            {"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cuda,cpu"},
            1,
            2,
            (1,),
        ),
        # --gpus-per-task=1, and 2: each task sees only its own.
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "1"}, 1, 2, None),
        ({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "2,3"}, 1, 2, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1, 4, None),
        # Chosen for JAX by the user.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_LOCAL_DEVICE_IDS": "3"}, 0, 4, None),
        # No GPUs, or JAX may not use them.
        ({}, 1, 2, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, 2, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1, 2, None),
        ({"SLURM_GPUS_ON_NODE": "2", "JAX_PLATFORMS": "cpu"}, 1, 2, None),
    ],
)
def test_a_task_takes_an_even_share_of_shared_gpus(environment, task, tasks, expected):
    assert task_gpus(environment, task, tasks) == expected


def test_gpus_are_counted_by_their_device_files(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert task_gpus({}, 1, 2) == (1,)
    found = parse("auto", OPEN_MPI_5)
    assert found is not None
    assert found.local_device_ids == (1,)


def test_gpus_that_do_not_split_evenly_are_an_error():
    with pytest.raises(
        ValueError, match=r"3 tasks on this node see the same 4 GPUs.*JAX_LOCAL_DEVICE_IDS"
    ):
        task_gpus({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 3)


def test_slurms_local_task_number_selects_the_gpus():
    shared = SRUN | {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    found = parse("auto", shared)
    assert found is not None
    assert found.local_device_ids == (2, 3)
    one = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    found = parse("auto", shared | one | {"SLURM_PROCID": "1", "SLURM_LOCALID": "0"})
    assert found is not None
    assert found.local_device_ids is None


@pytest.fixture
def tpu(tmp_path):
    """The environment of a TPU machine, with libtpu and the device files."""
    (tmp_path / "accel0").touch()
    (tmp_path / "libtpu.so").touch()
    return {"TPU_LIBRARY_PATH": str(tmp_path / "libtpu.so")}


def test_pods_of_a_tpu_slice_are_numbered_over_slices(tpu):
    assert parse("auto", GKE | tpu) == Processes("GKE TPU", "", 4, 2)
    assert parse("auto", GKE | tpu | SLICES) == Processes("GKE TPU", "", 8, 6)
    one = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    assert parse("auto", GKE | tpu | one) is None
    assert parse("auto", one | tpu | {"JAX_PLATFORMS": "cpu"}) is None


@pytest.fixture
def metadata():
    """A metadata server: its attributes, to be filled in, and its address. A number as an attribute is the
    status of the answer."""
    attributes = {}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = key in attributes and self.headers["Metadata-Flavor"] == "Google"
            value = attributes[key] if known else 404
            self.send_response(value if isinstance(value, int) else 200)
            self.end_headers()
            self.wfile.write(str(value).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield attributes, {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        server.shutdown()
        thread.join()


def test_machines_of_a_tpu_slice_are_numbered_over_slices(tpu, metadata):
    attributes, where = metadata
    environment = tpu | where | {"http_proxy": "http://127.0.0.1:9"}
    assert parse("auto", environment) is None  # a machine with a TPU that knows of no others
    attributes["agent-worker-number"] = "3"
    attributes["worker-network-endpoints"] = ",".join(
        f"unknown:unknown:10.0.0.{i}" for i in range(4)
    )
    assert parse("auto", environment) == Processes("TPU VM", "", 4, 3)
    attributes["tpu-env"] = (
        "ZONE: 'us-west4-a'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
    )
    assert parse("auto", environment) == Processes("TPU VM", "", 8, 7)
    assert parse("auto", environment | {"TPU_SKIP_MDS_QUERY": "1"}) is None
    attributes["agent-worker-number"] = "9"
    with pytest.raises(ValueError, match=r"TPU VM: process 13 of 8"):
        parse("auto", environment)


def test_a_single_tpu_machine_is_alone(tpu, metadata):
    attributes, where = metadata
    attributes |= {"worker-network-endpoints": "10.0.0.1", "agent-worker-number": "0"}
    assert parse("auto", tpu | where) is None
    with pytest.raises(StartError, match="WORLD_SIZE=8 means that at least 8 processes"):
        parse("auto", tpu | where | TORCHRUN)


def test_a_metadata_server_that_fails_is_an_error(tpu, metadata, monkeypatch):
    monkeypatch.setattr(accelerators, "RETRY_SECONDS", 0.0)
    attributes, failing = metadata
    attributes["agent-worker-number"] = 503
    silent = {"GCE_METADATA_IP": f"127.0.0.1:{free_port()}"}
    for where in (silent, failing):
        with pytest.raises(
            ValueError, match=r"did not answer whether it belongs to a slice.*--distributed=off"
        ):
            parse("auto", tpu | where)


def test_hosts_of_a_slice_that_jax_does_not_find_are_an_error(monkeypatch):
    for name in [
        n for n in os.environ if n.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JAX_COORD"))
    ]:
        monkeypatch.delenv(name)  # set if a launcher started these tests
    # JAX's own error if no variable names other hosts.
    monkeypatch.setattr(jax.distributed, "initialize", State().initialize)
    with pytest.raises(StartError, match=r"process 1/4 \(TPU VM\) did not start.*jaxcnn\[tpu\]"):
        start(Processes("TPU VM", "", 4, 1))
