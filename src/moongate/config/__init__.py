"""Typed, immutable settings: load, merge, check, explain.

Every setting is a key of `moongate.toml` and has an environment twin. What a setting
means to a running node is left to the part that uses it.
"""

from moongate.config.loading import load_config
from moongate.config.model import (
    Acme,
    Capture,
    Config,
    Limits,
    PortRange,
    Secret,
    Setting,
    differences,
    split_address,
    variable_of,
    without_password,
)

__all__ = [
    "Acme",
    "Capture",
    "Config",
    "Limits",
    "PortRange",
    "Secret",
    "Setting",
    "differences",
    "load_config",
    "split_address",
    "variable_of",
    "without_password",
]
