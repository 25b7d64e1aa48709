"""Values of config keys: plain Python values, flat names, parsing of overrides, conversion to types."""

from __future__ import annotations

import ast
import contextlib
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections


def plain(config: Any) -> Any:
    """`config` with every ConfigDict as a dict and every list as a tuple, as `load_config` returns it."""
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return tuple(plain(v) for v in config)
    return config


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with its sections flattened: `{"optim.momentum": 0.9}`."""
    flat: dict[str, Any] = {}
    for key, value in plain(config).items():
        flat |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat


def parse(text: str, kind: Any) -> Any:
    """The value of an override's text: a Python literal, or else the text itself."""
    if kind is str:
        return text
    with contextlib.suppress(ValueError, SyntaxError):
        return plain(ast.literal_eval(text.capitalize() if kind is bool else text))
    return text


def typed(key: str, value: Any, kind: Any, errors: list[str]) -> Any:
    """`value` converted to type `kind`; appends to `errors` if that is not possible."""
    try:
        return convert(value, kind)
    except TypeError:
        hint, arguments = "", typing.get_args(kind)
        if typing.get_origin(kind) is tuple and isinstance(value, str):
            hint = f"; for one value: ({value!r},)"
        elif typing.get_origin(kind) is tuple and isinstance(value, int):
            any_length = arguments[-1] is Ellipsis
            hint = f"; such as ({value},)" if any_length else f"; such as ({value}, {value})"
        errors.append(f"{key} must be {spell(kind)}, got {value!r}{hint}")
        return value


def convert(value: Any, kind: Any) -> Any:
    """`value` as type `kind`: a class, `tuple[...]` or a union. An int is a valid float, and 1e2 a valid int.

    Raises:
        TypeError: it is of another type.
    """
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        for option in arguments:
            with contextlib.suppress(TypeError):
                return convert(value, option)
    elif arguments:
        if isinstance(value, tuple):
            kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(map(convert, value, kinds))
    elif isinstance(value, bool) == (kind is bool):  # True is no int here
        if kind is float and isinstance(value, int):
            return float(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, kind):
            return value
    raise TypeError(f"{value!r} is not {spell(kind)}")


def did_you_mean(wrong: Any, valid: Iterable[Any], form: str = "{}", cutoff: float = 0.6) -> str:
    """`; did you mean NAME?` with the valid name nearest to `wrong`, in the given form; '' if none is."""
    near = difflib.get_close_matches(
        str(wrong), [v for v in valid if isinstance(v, str)], 1, cutoff
    )
    return f"; did you mean {form.format(near[0])}?" if near else ""


def spell(kind: Any) -> str:
    """A type as text for error messages."""
    return kind.__name__ if type(kind) is type else str(kind)
