"""Every file in configs/ at full size through an abstract train step and every evaluator."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxcnn.evaluation import check_fits
from jaxcnn.evaluation.posteriors import crops_of, shape_of
from jaxcnn.training import schema
from jaxcnn.training.builder import build_experiment, with_classes
from jaxcnn.training.schema import run_protocols

FOLDER = Path(__file__).parent.parent.parent / "configs"


@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.py")))
def test_the_train_step_and_every_evaluation_fit_the_config(name):
    """Each protocol that the config names, on a landscape of odd sides."""
    config = with_classes(schema.read_resolved(name, [])[1], 1000)
    exp = build_experiment(config)
    state, batch = exp.abstract_state(), exp.abstract_batch()
    after, sums = jax.eval_shape(exp.train_step, state, batch, exp.put_controls(0.1))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert sorted(sums) == ["failed", "finite", "leave", "loss", "n", "top1", "top5"]
    forward, params = exp.forward(), exp.abstract_evaluated()
    for protocol in run_protocols(config):
        check_fits(forward, protocol)
        in_square = forward.mean_image and protocol.in_square
        crops = crops_of(forward, protocol, 301, 417)
        for shape in {shape_of(crop, in_square) for crop in crops}:
            (posteriors,) = jax.tree.leaves(forward.lower(params, shape).out_info)
            assert posteriors.shape == (forward.rows(shape), 1000)
            assert posteriors.dtype == jnp.float32
