"""Settings from YAML and the command line, checked against a dataclass."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from osediff_core.documents import parse_yaml, read_document
from osediff_core.errors import OptionError, first_line

from .config import LoopConfig

Config = TypeVar("Config", bound=LoopConfig)


def read_settings(kind: type[Config], path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply "section.key=value" overrides, whose values are YAML too.

    Raises OptionError: no such file, no YAML, an unknown key (with the nearest known one), a value of a wrong kind or
    one that cannot work.
    """
    try:
        values = parse_yaml(read_document(Path(path)).decode("utf-8")) or {}
    except OSError as error:
        raise OptionError(
            f"The configuration {path} cannot be read ({error.strerror}); give a YAML file."
        ) from error
    except ValueError as error:
        raise OptionError(f"The configuration {path} is no YAML ({first_line(error)}); mend it.") from error
    if not isinstance(values, dict):
        raise OptionError(
            f"The configuration {path} must hold keys and values, such as `output: runs/first`."
        )
    for override in overrides or []:
        _override(values, override)
    return parse_settings(kind, values, str(path))


def parse_settings(kind: type[Config], values: dict[str, Any], source: str = "the configuration") -> Config:
    """Check `values` and make them a `kind`. Raises OptionError as `read_settings`."""
    try:
        config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise OptionError(f"{source}: {_first_fault(kind, error)}.") from error
    for fault in config.faults():
        raise OptionError(f"{source}: {fault}.")
    return config


def as_yaml(config: LoopConfig) -> str:
    """The whole configuration, defaults included, as `read_settings` reads it."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise OptionError(
            f"{override!r} is no setting; write section.key=value, for example optim.learning_rate=1e-5."
        )
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise OptionError(f"{key!r} is no key of the configuration, as {section!r} is a single value.")
    try:
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise OptionError(
            f"The value of {key} is no YAML ({first_line(error)}); put it in quotes."
        ) from error


def _first_fault(kind: type[LoopConfig], error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{where} is missing; add it"
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        nearest = difflib.get_close_matches(where, _known_keys(kind), n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else "see training/config.py for what there is"
        return f"{where} is no setting; {hint}".rstrip("?") + ("?" if nearest else "")
    return f"{where} is {fault['input']!r}, but {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _known_keys(kind: type[LoopConfig]) -> list[str]:
    schema = TypeAdapter(kind).json_schema()
    keys = []
    for name, entry in schema["properties"].items():
        reference = entry.get("$ref", "").rsplit("/", 1)[-1]
        inner = schema["$defs"].get(reference, {}).get("properties", {})
        keys += [name, *(f"{name}.{key}" for key in inner)]
    return keys


def _plain(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Tuples as lists: safe YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
