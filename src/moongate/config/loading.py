"""Where settings come from, and which source wins: defaults, the file, the environment, the command line."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moongate.config import server_toml
from moongate.config.model import ENV_PREFIX, KEYS, SECTIONS, Config, default_home, variable_of
from moongate.config.sources import Source, flat
from moongate.errors import ConfigurationError

FILE_NAME = "moongate.toml"
# Variables of the command line that are not settings of a node.
OTHER_VARIABLES = frozenset({"MOONGATE_SERVER", "MOONGATE_TOKEN", "MOONGATE_CONFIG"})


def load_config(
    path: Path | None = None, env: Mapping[str, str] = os.environ, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Merge defaults, the file, the environment and `overrides` (dotted or nested keys; None is "not given").

    Without a path, `moongate.toml` in the home directory is read if it is there.

    Raises:
        ConfigurationError: If a key is unknown or a value cannot be used; it names both.
    """
    said = _from_overrides(overrides or {})
    variables = _from_environment(env)
    home = said.values.get("home") or variables.values.get("home")
    # What is no path at all is refused with the other settings below.
    folder = Path(home) if home and isinstance(home, str | Path) else default_home()
    file = _from_file(path) if path is not None else _from_home(folder)
    return _build([file, variables, said])


def _build(sources: list[Source]) -> Config:
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in sources:
        merged |= source.values
        origins |= {key: _origin(source, key) for key in source.values}
    try:
        config = Config.model_validate(_nested(merged))
    except ValidationError as error:
        raise _translated(error, origins) from None
    foreign = {key: value for source in sources for key, value in source.foreign.items()}
    return config.with_origins(origins, foreign, tuple(warning for source in sources for warning in source.warnings))


def _origin(source: Source, key: str) -> str:
    return variable_of(key) if source.name == "environment" else source.name


def _translated(error: ValidationError, origins: Mapping[str, str]) -> ConfigurationError:
    """Say which settings cannot be used and why, without their values: one may be a secret."""
    reasons = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        place = [str(part) for part in problem["loc"]]
        key = ".".join(place[:2]) if place and place[0] in SECTIONS else ".".join(place[:1])
        reason = problem["msg"].removeprefix("Value error, ")
        where = f"{key} ({origins.get(key, 'default')}): " if key else ""
        reasons.append(f"{where}{reason[:1].lower()}{reason[1:]}")
    return ConfigurationError("; ".join(reasons))


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot:
            tree.setdefault(section, {})[name] = value
        else:
            tree[key] = value
    return tree


def _suggestion(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS | SECTIONS, n=1, cutoff=0.6)
    # People put a section's key at the top, or the other way round.
    near = near or [known for known in sorted(KEYS) if known.rpartition(".")[2] == key.rpartition(".")[2]]
    return f"; did you mean {near[0]!r}?" if near else ""


def _checked_keys(values: dict[str, Any], where: str) -> dict[str, Any]:
    for key in values:
        if key in SECTIONS:
            raise ConfigurationError(f"{key!r} in {where} is a section, not a setting")
        if key not in KEYS:
            raise ConfigurationError(f"unknown setting {key!r} in {where}{_suggestion(key)}")
    return values


def _from_overrides(overrides: Mapping[str, Any]) -> Source:
    given = {key: value for key, value in flat(overrides, SECTIONS).items() if value is not None}
    return Source("command line", _checked_keys(given, "the command line"), {})


def _from_environment(env: Mapping[str, str]) -> Source:
    known = {variable_of(key): key for key in KEYS}
    values = {key: env[variable] for variable, key in known.items() if env.get(variable)}
    strange = sorted(set(filter(lambda name: name.startswith(ENV_PREFIX), env)) - known.keys() - OTHER_VARIABLES)
    warnings = []
    for name in strange:
        # Other tools may use our prefix, so only what looks like a slip is worth a word.
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near:
            warnings.append(f"unknown variable {name}; did you mean {near[0]}?")
    return Source("environment", values, {}, tuple(warnings))


def _from_home(home: Path) -> Source:
    path = home.expanduser() / FILE_NAME
    return _from_file(path) if path.is_file() else Source(FILE_NAME, {}, {})


def _from_file(path: Path) -> Source:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    source = server_toml.read(path, tree) if server_toml.recognised(path, tree) else _from_moongate_toml(path, tree)
    folder = path.expanduser().absolute().parent
    anchored = {key: _anchored(folder, key, value) for key, value in source.values.items()}
    return Source(str(path), anchored, source.foreign, source.warnings)


def _anchored(folder: Path, key: str, value: Any) -> Any:
    """A relative path in a file is relative to that file."""
    is_path = key in {"home", "tls_cert", "tls_key", "acme.ca_file"} and isinstance(value, str)
    return folder / Path(value).expanduser() if is_path else value


def _from_moongate_toml(path: Path, tree: Mapping[str, Any]) -> Source:
    return Source(str(path), _checked_keys(flat(tree), str(path)), {})
