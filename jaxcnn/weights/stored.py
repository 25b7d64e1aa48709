"""A net with weights as one .safetensors file of our names, whose header says all that belongs to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from jaxcnn.weights.formats.safetensors import write_safetensors
from jaxcnn.weights.net_weights import NetWeights


def write_weights(path: Path, weights: NetWeights) -> None:
    """Writes the weights of a net; each parameter is read when it is written.

    Raises:
        FileError: a parameter cannot be read. WriteError: the file cannot be written.
    """
    write_safetensors(
        path,
        {name: leaf.shape for name, leaf in weights.leaves.items()},
        lambda name: weights.leaves[name].read(),
        facts_text(weights),
    )


def facts_text(weights: NetWeights) -> dict[str, str]:
    """What belongs to the weights of a net, as JSON by name."""
    facts = {
        "model": dict(weights.model),
        "mean": np.asarray(weights.mean, np.float64).tolist(),
        "classes": list(weights.classes),
        "origin": dict(weights.origin),
    }
    return {key: json.dumps(fact) for key, fact in facts.items()}
