"""Weights of other programs, in and out: files, the names and layouts of their arrays, input conventions."""

from jaxcnn.weights.choices import Choices
from jaxcnn.weights.net_weights import Leaf, NetWeights
from jaxcnn.weights.read import read_weights

__all__ = ["Choices", "Leaf", "NetWeights", "read_weights"]
