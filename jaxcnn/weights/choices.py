"""What a user says about a weights file that the file does not say itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxcnn import config as configs
from jaxcnn.models import NETS, net_fields


@dataclasses.dataclass(frozen=True)
class Choices:
    """Options of `read_weights`.

    Attributes:
        source: a key of SOURCES, for weights that no fingerprint shows; '' asks the fingerprint alone.
        net: 'NAME KEY=VALUE ...', which net it is, where the file fits several; '' for none.
        classes: class names by label; () for those of the source or the file.
        mean: of R, G and B, to subtract instead of the weights' own (see `folding.shift_mean`).
        mean_image: file of a mean image, subtracted instead of its channel means.
        drop_background: whether the first of the outputs is a background class that is left out.
    """

    source: str = ""
    net: str = ""
    classes: tuple[str, ...] = ()
    mean: tuple[float, float, float] | None = None
    mean_image: str = ""
    drop_background: bool = False


def read_net(text: str) -> dict[str, Any]:
    """The fields of a net that a user types as `NAME KEY=VALUE ...`, such as `vgg column=D`; {} for ''.

    Raises:
        ConfigError: an unknown name or key, or a wrong value.
    """
    name, *given = text.split()
    if name not in NETS:
        hint = configs.did_you_mean(name, NETS)
        raise configs.ConfigError(f"unknown net {name!r}{hint} (valid: {', '.join(NETS)})")
    fields, problems, found = net_fields(name), [], {"name": name}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or key not in fields:
            hint = configs.did_you_mean(key, fields)
            problems.append(f"{name} has no {pair!r}{hint} (valid: {', '.join(sorted(fields))})")
            continue
        kind: Any = fields[key].type
        found[key] = configs.typed(f"{name} {key}", configs.parse(value, kind), kind, problems)
    if problems:
        raise configs.ConfigError("; ".join(problems))
    return found


def net_text(model: Any) -> str:
    """The inverse of `read_net`."""
    return " ".join([str(model["name"]), *(f"{k}={v}" for k, v in model.items() if k != "name")])
