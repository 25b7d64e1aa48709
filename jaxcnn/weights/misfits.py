"""Arrays of a file that do not fit a net, as lines of a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxcnn.weights.kernel_layout import fits, stored_shape
from jaxcnn.weights.naming import Place
from jaxcnn.weights.tensors import WeightsFile

_SHOWN = 12


def misshapen(
    file: WeightsFile, places: Sequence[Place], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """How the shapes and dtypes of the arrays that are there differ from those of the net."""
    problems = []
    for place in places:
        shape = shapes[place.leaf]
        expected = [(place.tensor, place.layout, shape)] if place.tensor else []
        norms = place.norm[:4] if place.norm else ()
        expected += [(name, "O", shape[-1:]) for name in norms if name]
        for name, layout, ours in expected:
            tensor = file.tensors.get(name)
            if tensor is None:  # missing, which is said apart
                continue
            if not fits(layout, tensor.shape, ours):
                problems.append(
                    f"{name}: {list(tensor.shape)}, expected {list(stored_shape(layout, ours))}"
                )
            elif tensor.dtype.kind not in "f" and tensor.dtype.name != "bfloat16":
                problems.append(f"{name}: {tensor.dtype.name}, expected floating-point numbers")
    return list(dict.fromkeys(problems))


def shown(lines: Sequence[str]) -> list[str]:
    """The first of `lines`, indented, and how many more there are."""
    rest = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [*(f"  {line}" for line in lines[:_SHOWN]), *rest]
