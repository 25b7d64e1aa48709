"""Test protocols: crops of an image, the mean of their posteriors, exact error rates, ensembles."""

from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.metrics import Result, Tally, ranks
from jaxcnn.evaluation.posteriors import check_fits, choose_crops, image_posteriors
from jaxcnn.evaluation.protocols import PROTOCOLS, Protocol, read_protocol
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
    "image_posteriors",
    "ranks",
    "read_protocol",
]
