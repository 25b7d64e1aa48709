"""Each process uses its share of a machine's GPUs."""

import pytest

from jaxcnn.parallel.accelerators import task_gpus


@pytest.mark.parametrize(
    ("environment", "task", "tasks", "expected"),
    [
        # A task alone on its node uses all.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 1, ()),
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
        ({"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "1"}, 1, 2, ()),
        ({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "2,3"}, 1, 2, ()),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 1, 4, ()),
        # Chosen for JAX by the user.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "JAX_LOCAL_DEVICE_IDS": "3"}, 0, 4, None),
        # No GPUs, or JAX may not use them.
        ({}, 1, 2, ()),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, 2, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1, 2, ()),
        ({"SLURM_GPUS_ON_NODE": "2", "JAX_PLATFORMS": "cpu"}, 1, 2, ()),
    ],
)
def test_a_task_takes_an_even_share_of_shared_gpus(environment, task, tasks, expected):
    assert task_gpus(environment, task, tasks) == expected


def test_gpus_are_counted_by_their_device_files(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert task_gpus({}, 1, 2) == (1,)


def test_gpus_that_do_not_split_evenly_are_an_error():
    with pytest.raises(
        ValueError, match=r"3 tasks on this node see the same 4 GPUs.*JAX_LOCAL_DEVICE_IDS"
    ):
        task_gpus({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 0, 3)
