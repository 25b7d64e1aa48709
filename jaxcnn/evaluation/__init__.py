"""Parameters to error rates: what a protocol looks at, how posteriors are averaged, exact counting."""

from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.metrics import Result, Tally, ranks
from jaxcnn.evaluation.posteriors import check_fits, choose_crops, posteriors
from jaxcnn.evaluation.protocols import PROTOCOLS, Protocol
from jaxcnn.evaluation.run_protocol import ProtocolRun, evaluate

__all__ = [
    "PROTOCOLS",
    "Forward",
    "Protocol",
    "ProtocolRun",
    "Result",
    "Tally",
    "check_fits",
    "choose_crops",
    "evaluate",
    "posteriors",
    "ranks",
]
