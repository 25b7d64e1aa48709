"""Protocols by what a user types: a name and its keys."""

from __future__ import annotations

import difflib
import re
from typing import Any

from jaxcnn import config as configs
from jaxcnn.evaluation.protocols import PROTOCOLS, Protocol


def read_protocol(text: str, image_size: int) -> Protocol:
    """The protocol that `NAME KEY=VALUE ...` names, such as `dense scales=(256,288)`.

    Scales that are not given are the paper's, for images of 224; of another `image_size` in proportion.

    Raises:
        ConfigError: an unknown name or key, a wrong value, or scales that do not hold the images.
    """
    # Split at spaces, but not at those within brackets.
    name, *given = re.findall(r"(?:[^\s(]|\([^)]*\)?)+", text) or [""]
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise configs.ConfigError(
            f"unknown protocol {name!r}{hint} (valid: {', '.join(PROTOCOLS)})"
        )
    kind, problems = PROTOCOLS[name], []
    keys = {k: v for k, v in configs.parameters(kind).items() if k != "every_epochs"}
    values: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if key not in keys or not equals:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"; did you mean {near[0]}=?" if near else ""
            valid = ", ".join(f"{k}=" for k in keys)
            problems.append(f"{name} has no {pair!r}{hint} (valid: {valid})")
            continue
        wanted = keys[key][0]
        values[key] = configs.typed(f"{name} {key}", configs.parse(value, wanted), wanted, problems)
    if problems:
        raise configs.ConfigError("; ".join(problems))
    try:
        protocol = kind(**values)
        if not {"scale", "scales"} & values.keys():
            protocol = protocol.for_images_of(image_size)
        protocol.check(image_size)
    except ValueError as error:
        raise configs.ConfigError(f"{text}: {error}") from error
    return protocol
