"""Two tiny runs of net A that all commands on finished runs share."""

import pytest

from jaxcnn.training import run
from tests.training.runs import config


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory):
    """Workdirs of two seeds, each evaluated by a centre crop at 37. No epochs, so no train step is compiled;
    one device, which compiles faster."""
    base, rows = tmp_path_factory.mktemp("runs"), "({'name':'centre','scale':37},)"
    settings = {"epochs": 0, "augment__scale": "(37,37)", "evals": rows, "mesh__data": 1}
    for seed in (0, 1):
        run(config(**settings, seed=seed), base / f"a{seed}", command=["jaxcnn", "train"])
    return [str(base / f"a{seed}") for seed in (0, 1)]
