"""Read, check, print and compare configs.

A config file is a Python file with `get_config() -> ConfigDict`. A config has sections, each the keyword
arguments of one callable, and a few plain keys (`PLAIN`). The signature of the callable defines the keys of
its section, so no second list has to be maintained.
"""

from jaxcnn.config.checking import Sections, build_section, parameters, resolve
from jaxcnn.config.files import (
    CONFIGS,
    MAY_DIFFER,
    ConfigError,
    config_advice,
    difference,
    execute,
    find_config,
    forbidden_difference,
    format_config,
    load_config,
    plain,
    read_config,
    save_config,
    with_version,
)
from jaxcnn.config.values import did_you_mean, parse, typed

__all__ = [
    "CONFIGS",
    "MAY_DIFFER",
    "ConfigError",
    "Sections",
    "build_section",
    "config_advice",
    "did_you_mean",
    "difference",
    "execute",
    "find_config",
    "forbidden_difference",
    "format_config",
    "load_config",
    "parameters",
    "parse",
    "plain",
    "read_config",
    "resolve",
    "save_config",
    "typed",
    "with_version",
]
