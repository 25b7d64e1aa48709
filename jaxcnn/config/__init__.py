"""Read, check, print and compare configs.

A config file is a Python file with `get_config() -> ConfigDict`: sections, each the keyword arguments of
one callable, and a few plain keys (`PLAIN`). What keys a section may hold is read from the signature of
that callable, so there is no second list of them to keep in step.
"""

from jaxcnn.config.checking import PLAIN, Sections, build, parameters, resolve
from jaxcnn.config.files import (
    MAY_DIFFER,
    ConfigError,
    difference,
    execute,
    find,
    forbidden_difference,
    load,
    plain,
    read,
    save,
    show,
)
from jaxcnn.config.values import parse, typed

__all__ = [
    "MAY_DIFFER",
    "PLAIN",
    "ConfigError",
    "Sections",
    "build",
    "difference",
    "execute",
    "find",
    "forbidden_difference",
    "load",
    "parameters",
    "parse",
    "plain",
    "read",
    "resolve",
    "save",
    "show",
    "typed",
]
