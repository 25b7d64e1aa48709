"""Values of config keys: parsing of overrides, and conversion to the type of a key."""

from __future__ import annotations

import ast
import types
import typing
from typing import Any

from jaxcnn.config.files import plain


def parse(text: str, kind: Any) -> Any:
    """The value of an override's text: a Python literal, or else the text itself."""
    if kind is str:
        return text
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def typed(key: str, value: Any, kind: Any, errors: list[str]) -> Any:
    """`value` converted to type `kind`; appends to `errors` if that is not possible."""
    ok, value = _convert(value, kind)
    if not ok:
        origin = typing.get_origin(kind)
        hint = (
            f"; for one value: ({value!r},)" if origin is tuple and isinstance(value, str) else ""
        )
        if origin is tuple and isinstance(value, int):
            any_length = typing.get_args(kind)[-1] is Ellipsis
            hint = f"; such as ({value},)" if any_length else f"; such as ({value}, {value})"
        errors.append(f"{key} must be {spell(kind)}, got {value!r}{hint}")
    return value


def _convert(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether `value` is of type `kind`, and the value as that type (1e2 is a valid int)."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True, value
    if origin is typing.Literal:
        return value in arguments, value
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            ok, converted = _convert(value, option)
            if ok:
                return True, converted
        return False, value
    if kind is type(None):
        return value is None, value
    if origin is tuple or kind is tuple:
        if not isinstance(value, tuple):
            return False, value
        if not arguments:
            return True, value
        if arguments[-1] is Ellipsis:
            pairs = [_convert(v, arguments[0]) for v in value]
        else:
            if len(value) != len(arguments):
                return False, value
            pairs = [_convert(v, a) for v, a in zip(value, arguments, strict=True)]
        return all(ok for ok, _ in pairs), tuple(v for _, v in pairs)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool, value
    if kind is float and isinstance(value, int | float):
        return True, float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return True, int(value)
    return isinstance(value, kind) if isinstance(kind, type) else True, value


def spell(kind: Any) -> str:
    """A type as text for error messages."""
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(kind))
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
