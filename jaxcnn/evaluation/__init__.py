"""Parameters to error rates: what a protocol looks at, how posteriors are averaged, exact counting."""

from jaxcnn.evaluation.counting import Result, Tally, ranks
from jaxcnn.evaluation.evaluating import Judgement, evaluate
from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.looking import check_fits, choose_cuts, posteriors
from jaxcnn.evaluation.protocols import PROTOCOLS, Protocol

__all__ = [
    "PROTOCOLS",
    "Forward",
    "Judgement",
    "Protocol",
    "Result",
    "Tally",
    "check_fits",
    "choose_cuts",
    "evaluate",
    "posteriors",
    "ranks",
]
