"""The shapes of JSON values and arrays that jaxcnn's files hold, written as plain data, and their check.

A shape of JSON is a type, {key: shape} for an object, [shape] for a list, None, or a tuple of alternatives,
the usual one last. A key that ends in '?' may be missing; keys that the shape does not name may be there.
`float` stands for every finite number, `numbers.Real` for NaN and infinity too, `object` for any value.

A shape of arrays is {name: (kind or tuple of kinds, *sizes)}. A size is a number, or a name that stands for
the same number in all arrays. An array whose name ends in '?' may be missing.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

Shape = Any
Arrays = Mapping[str, tuple[Any, ...]]

_DEEPEST = 32


def is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def misfit(value: Any, expect: Shape, where: str) -> str:
    """Where and how a JSON value differs from the expected shape; '' if it does not."""
    if isinstance(expect, tuple):
        problems = [misfit(value, shape, where) for shape in expect]
        return "" if "" in problems else problems[-1]
    if isinstance(expect, dict) and isinstance(value, dict):
        inside = f"{where}." if where else ""
        for key, shape in expect.items():
            name = key.removesuffix("?")
            if name not in value and name == key:
                return f"{inside}{name} is missing"
            if name in value and (problem := misfit(value[name], shape, inside + name)):
                return problem
        return ""
    if isinstance(expect, list) and isinstance(value, list):
        problems = (misfit(v, expect[0], f"{where}[{i}]") for i, v in enumerate(value))
        return next(filter(None, problems), "")
    if _fits(value, expect):
        return ""
    seen = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
    return f"{where or 'it'} must be {_spell(expect)}, found {seen}"


def _fits(value: Any, expect: Shape) -> bool:
    if not isinstance(expect, type):
        return value is expect  # None; a dict or list that fits was seen before
    if isinstance(value, bool) or expect is object:
        return expect in (bool, object)
    if not isinstance(value, int | float) or not issubclass(expect, numbers.Real):
        return isinstance(value, expect)
    if isinstance(value, float) and not math.isfinite(value):  # an int may be too large for a float
        return expect is numbers.Real
    return abs(value) < 2**63 and (isinstance(value, int) or expect is not int)


def _spell(expect: Shape) -> str:
    if isinstance(expect, tuple):
        return " or ".join(map(_spell, expect))
    if not isinstance(expect, type):
        expect = type(expect)
    words = {bool: "true or false", str: "text", int: "a whole number", dict: "an object"}
    words |= {list: "a list", type(None): "null"}
    return words.get(expect, "a finite number" if expect is float else "a number")


def arrays_misfit(found: Mapping[str, np.ndarray], expect: Arrays) -> str:
    """Where and how arrays differ from those expected; '' if they do not."""
    sizes: dict[str, int] = {}
    for key, (kinds, *shape) in expect.items():
        name = key.removesuffix("?")
        array = found.get(name)
        if array is None:
            if name == key:
                return f"the array {name} is missing"
            continue
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        fits = len(shape) == array.ndim and any(np.issubdtype(array.dtype, k) for k in kinds)
        # A name stands for the size with which it is first seen.
        fits = fits and all(
            size == (sizes.setdefault(n, size) if isinstance(n, str) else n)
            for n, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(f"{sizes.get(n, n)}" for n in shape)
            types = " or ".join(kind.__name__ for kind in kinds)
            return f"{name} must be {types}[{wanted}], found {array.dtype}{list(array.shape)}"
    return ""
