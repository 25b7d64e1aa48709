"""Devices of a process: its share of a node's GPUs, and the machines of a TPU slice."""

import http.server
import threading

import pytest

from jaxcnn.parallel.accelerators import task_gpus
from jaxcnn.parallel.distributed import Processes, parse
from tests.parallel.launchers import GKE, OPEN_MPI_5, SLICES, SRUN, free_port


@pytest.mark.parametrize(
    ("environment", "task", "tasks", "expected"),
    [
        # Alone on its node: all.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 1, None),
        # All see all: an even share, counted among the visible ones.
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
        # --gpus-per-task=1, and 2: each is shown its own.
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "1"}, 1, 2, None),
        ({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "2,3"}, 1, 2, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1, 4, None),
        # Said by hand, to JAX.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_LOCAL_DEVICE_IDS": "3"}, 0, 4, None),
        # None there, or none wanted.
        ({}, 1, 2, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, 2, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1, 2, None),
        ({"SLURM_GPUS_ON_NODE": "2", "JAX_PLATFORMS": "cpu"}, 1, 2, None),
    ],
)
def test_shares_of_gpus(environment, task, tasks, expected):
    assert task_gpus(environment, task, tasks) == expected


def test_shares_of_device_files(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert task_gpus({}, 1, 2) == (1,)
    found = parse("auto", OPEN_MPI_5)
    assert found is not None
    assert found.local_device_ids == (1,)


def test_gpus_that_do_not_split():
    with pytest.raises(
        ValueError, match=r"3 tasks on this node see the same 4 GPUs.*JAX_LOCAL_DEVICE_IDS"
    ):
        task_gpus({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 3)


def test_gpus_under_slurm():
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
    """What a TPU machine's environment has besides; JAX's library and the device files are there."""
    (tmp_path / "accel0").touch()
    (tmp_path / "libtpu.so").touch()
    return {"TPU_LIBRARY_PATH": str(tmp_path / "libtpu.so")}


def test_pods_of_a_tpu_slice(tpu):
    assert parse("auto", GKE | tpu) == Processes("GKE TPU", "", 4, 2)
    assert parse("auto", GKE | tpu | SLICES) == Processes("GKE TPU", "", 8, 6)
    assert (
        parse("auto", GKE | tpu | {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"})
        is None
    )
    assert parse("auto", GKE | tpu | {"JAX_PLATFORMS": "cpu"}) is None


@pytest.fixture
def metadata():
    """A metadata server; its attributes, to be filled in, and its address."""
    attributes = {}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = key in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(key, "").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield attributes, {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        server.shutdown()
        thread.join()


def test_machines_of_a_tpu_slice(tpu, metadata):
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
    attributes |= {
        "worker-network-endpoints": "10.0.0.1",
        "agent-worker-number": "0",
        "tpu-env": "",
    }
    assert parse("auto", environment) is None


def test_a_tpu_whose_metadata_server_is_silent(tpu):
    where = {"GCE_METADATA_IP": f"127.0.0.1:{free_port()}"}
    with pytest.raises(
        ValueError, match=r"did not answer whether it belongs to a slice.*--distributed=off"
    ):
        parse("auto", tpu | where)
