"""Presets from YAML files: those that come with the package, and a user's own.

A file has the keys summary, method (a key of METHODS), official, sharpen_hq, and those of the method's dataclass.
"""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

from ..choices import DEGRADATIONS
from ..documents import parse_yaml, read_document
from ..errors import OptionError, first_line
from ..regular import check_regular
from .preset import METHODS, Preset

_FOLDER = Path(__file__).parent / "presets"
_SUFFIXES = (".yaml", ".yml")
_PLAIN = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def find_preset(name: str) -> tuple[str, Preset]:
    """A key of PRESETS, or the path of a .yaml file -> (short name, preset).

    Raises OptionError for another name, and for a file that is missing or says what no preset can.
    """
    if name in PRESETS:
        return name, PRESETS[name]
    path = Path(name)
    if path.suffix.lower() not in _SUFFIXES:
        raise OptionError(
            f"There is no degradation preset named {str(name)!r}; choose one of {', '.join(PRESETS)}, or give the "
            "path of a .yaml file."
        )
    try:
        check_regular(path, OptionError, "give a .yaml file")
        changed = path.stat().st_mtime_ns
    except (OSError, ValueError) as error:
        raise OptionError(f"The preset {path} cannot be read ({_why(error)}); check the path.") from error
    return path.stem, _read(path, changed)


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> Preset:
    """`changed` is there to have an edited file read anew."""
    try:
        text = read_document(path).decode("utf-8")
    except (OSError, ValueError) as error:
        raise OptionError(f"The preset {path} cannot be read ({_why(error)}); check the file.") from error
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise OptionError(f"The preset {path} is no YAML ({first_line(error)}); correct it.") from error
    try:
        return _preset(data)
    except _WrongValue as error:
        raise OptionError(f"The preset {path} cannot be used: {error}.") from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


class _WrongValue(Exception):
    """A clause that begins with the key."""


def _wrong(key: str, text: str) -> NoReturn:
    raise _WrongValue(f"{key or 'the file'} {text}")


def _preset(data: Any) -> Preset:  # noqa: ANN401 - whatever the file holds
    if not isinstance(data, dict):
        _wrong("", "must hold keys and values, as those in osediff_core/degrade/presets do")
    rest = dict(data)
    common = {name: rest.pop(name) for name in ("summary", "official", "sharpen_hq") if name in rest}
    method = rest.pop("method", None)
    if method not in tuple(METHODS):
        _wrong("method", f"must be one of {', '.join(METHODS)}")
    recipe = _build(METHODS[method], rest, "")
    hints = {"summary": str, "official": bool, "sharpen_hq": bool}
    return Preset(recipe=recipe, **{"summary": "", **{k: _build(hints[k], v, k) for k, v in common.items()}})


def _build(kind: Any, value: Any, key: str) -> Any:  # noqa: ANN401 - any type of a dataclass's field
    """`value` as YAML has it -> the same as `kind`, checked."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        built = _build(args[0], value, key)
        for rule in args[1:]:
            if not rule.holds(built):
                _wrong(key, f"must be {rule.text}, not {value!r}")
        return built
    if origin in (Union, types.UnionType):  # only "kind or nothing" occurs
        return None if value is None else _build(next(a for a in args if a is not type(None)), value, key)
    if origin is tuple:
        return _tuple(args, value, key)
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, value, key)
    right = isinstance(value, (int, float) if kind is float else kind)
    if not right or (isinstance(value, bool) and kind is not bool):
        _wrong(key, f"must be {_PLAIN[kind]}, not {value!r}")
    if kind is float and not math.isfinite(value):
        _wrong(key, f"must be a finite number, not {value!r}")
    return kind(value)


def _tuple(kinds: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:  # noqa: ANN401
    any_length = kinds[-1] is Ellipsis
    if not isinstance(value, list) or not (any_length or len(value) == len(kinds)):
        _wrong(key, f"must be a list{'' if any_length else f' of {len(kinds)}'}, not {value!r}")
    kinds = kinds[:1] * len(value) if any_length else kinds
    return tuple(
        _build(kind, one, f"{key}[{i}]") for i, (kind, one) in enumerate(zip(kinds, value, strict=True))
    )


def _dataclass(kind: type, value: Any, key: str) -> Any:  # noqa: ANN401
    if not isinstance(value, dict):
        _wrong(key, f"must hold keys and values, not {value!r}")
    hints, lead = get_type_hints(kind, include_extras=True), f"{key}." if key else ""
    for name in value:
        if name not in hints:
            _wrong(f"{lead}{name}", f"is no key there; there are {', '.join(hints)}")
    for field in fields(kind):
        if field.default is MISSING and field.name not in value:
            _wrong(f"{lead}{field.name}", "is missing")
    return kind(**{name: _build(hints[name], one, f"{lead}{name}") for name, one in value.items()})


PRESETS: dict[str, Preset] = {name: _read(_FOLDER / f"{name}.yaml", 0) for name in DEGRADATIONS}
