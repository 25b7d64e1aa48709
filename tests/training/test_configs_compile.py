"""Every file in configs/ at full size through an abstract train step and every evaluator."""

from pathlib import Path

import jax
import pytest

from jaxcnn.evaluation import PROTOCOLS
from jaxcnn.training import sections
from jaxcnn.training.experiment import assemble, with_classes
from jaxcnn.training.statistics import stand_in

FOLDER = Path(__file__).parent.parent.parent / "configs"


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.py")))
def test_abstract_step(name):
    config = with_classes(sections.read(name, [], FOLDER)[1], 1000)
    exp = assemble(config, stand_in(config))
    state, batch = exp.abstract_state(), exp.abstract_batch()
    after, sums = jax.eval_shape(exp.train_step, state, batch, exp.put_controls(0.1))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert sorted(sums) == ["finite", "loss", "n", "top1", "top5"]
    counts = jax.eval_shape(exp.eval_step, state.params, batch)
    assert sorted(counts) == ["loss", "n", "top1", "top5"]
    assert {row["name"] for row in config["evals"]} <= PROTOCOLS.keys()
