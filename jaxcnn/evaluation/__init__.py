"""Parameters to error rates: which views of an image a protocol takes, and exact counting."""

from jaxcnn.evaluation.counting import Result, count_batch, evaluate, make_eval_step, ranks
from jaxcnn.evaluation.protocols import PROTOCOLS, Centre

__all__ = ["PROTOCOLS", "Centre", "Result", "count_batch", "evaluate", "make_eval_step", "ranks"]
