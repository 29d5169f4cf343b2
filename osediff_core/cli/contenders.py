"""What `osediff compare` compares: what each --with names, the settings that it runs with, and what of it is done."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..atomic import write_bytes_atomically
from ..batch.job import FileJob, is_done, options_of
from ..batch.restorer import Settings
from ..choices import TINY
from ..documents import parse_json
from ..errors import CheckpointError, ImageError, OptionError, writing
from ..printable import quoted
from ..version import __version__
from .options import Parser
from .upscale_options import SLIDERS, add_options, check, settings_of

logger = logging.getLogger(__name__)

BICUBIC = "bicubic"
ONE_STEP, UPSCALER, FOLDER = "one-step", "upscaler", "folder"
_NEXT = re.compile(r",(?=[a-z][a-z-]*=)")  # before another KEY=VALUE; other commas are of a path or a value
_NAME = re.compile(r"[^\W_][\w .+-]*")
_WORDS = ("prompt", "dape", "ram", "exclude_tags", "tag_offset", "official_prompt")
_FIXED = (
    "weights",
    "scale",
    "size",
    "jpeg_quality",
    "keep_metadata",
)  # what must be alike, or is named otherwise


@dataclass(frozen=True)
class Contender:
    """One method, or a folder of results. settings: what makes the results; None: they are there, or it is bicubic."""

    name: str
    kind: str
    title: str
    source: str | None = None
    settings: Settings | None = None


def contenders(given: Sequence[str], common: Mapping[str, Any], lq: Sequence[Path]) -> list[Contender]:
    """Every --with as what it names, bicubic first; nothing is loaded.

    common: options of all methods, by their names in `Settings`. lq: the pictures' folders, which are no results.
    Raises OptionError, CheckpointError, BaseModelError for what cannot be compared, before anything is done.
    """
    found = [Contender(BICUBIC, BICUBIC, BICUBIC)]
    for text in given:
        one = _contender(text, common)
        if one.name.lower() in {other.name.lower() for other in found}:
            raise OptionError(
                f"Two methods are called {one.name}; give one a name of its own, as NAME={text}."
            )
        if one.kind == FOLDER and any(os.path.samefile(one.source or "", path) for path in lq):
            raise OptionError(f"{one.source} holds the pictures themselves; give a folder of results.")
        found.append(one)
    return found


def _contender(text: str, common: Mapping[str, Any]) -> Contender:
    path, own, name = text, {}, None
    if not os.path.exists(text):
        path, *pairs = _NEXT.split(text)
        own = dict(pair.split("=", 1) for pair in pairs)
    if not os.path.exists(path) and "=" in path:
        name, path = path.split("=", 1)
    if name is None:
        name = TINY if path == TINY else Path(os.path.abspath(path)).stem
        name = re.sub(r"[^\w .+-]", "_", name).strip(" .") or "results"
    elif not _NAME.fullmatch(name):
        raise OptionError(f"{quoted(name)} is no name of a method; use letters, digits, spaces and . + - _.")
    if not path:
        raise OptionError(f"{quoted(text)} names no file and no folder; give one behind the =.")
    if path != TINY and not os.path.exists(path):
        raise CheckpointError(f"{path} does not exist; check the path.")
    if path != TINY and _is_folder_of_results(path):
        if own:
            raise OptionError(
                f"{path} is a folder of results, which takes no {next(iter(own))}; leave it out."
            )
        return Contender(name, FOLDER, FOLDER, path)
    return _method(name, path, own, common)


def _is_folder_of_results(path: str) -> bool:
    from ..weights.tensor_file import has_adapters

    return os.path.isdir(path) and not has_adapters(Path(path))


def _method(name: str, path: str, own: Mapping[str, str], common: Mapping[str, Any]) -> Contender:
    from ..backends.find_base import DEFAULT_WEIGHTS, PACKAGED, find_base
    from ..direct.upscaler import KINDS
    from ..weights.formats import format_of
    from ..weights.identify import identify_file
    from ..weights.tensor_file import TensorFile

    file = TensorFile.open(PACKAGED[TINY] / DEFAULT_WEIGHTS if path == TINY else Path(path))
    known = format_of(file, own.get("method"))
    chosen = dict(common)
    if known is None:
        identity = identify_file(file)
        if identity.kind not in KINDS:
            raise CheckpointError(f"{path} is {identity.what}, which cannot be compared; {identity.use}.")
    if known is None or not known.about.reads_words:  # as their authors run them
        chosen = {key: value for key, value in chosen.items() if key not in _WORDS}
    settings = replace(_settings(path, own, chosen), weights=None if path == TINY else path)
    if path == TINY:
        if "base" in own:
            raise OptionError(f"{TINY} brings its own base; leave base={own['base']} out.")
        settings = replace(settings, base=TINY)
    for given in (settings.decoder, settings.dape, settings.ram):
        if given not in (None, TINY) and not os.path.exists(given):
            raise CheckpointError(f"{given} does not exist; check the path.")
    if known is not None:
        known.about.settle(settings.sliders)
        if known.about.base != "none" and not settings.allow_download:
            find_base(settings.base, revision=settings.revision)
    title = known.about.title if known else identity.what
    return Contender(name, ONE_STEP if known else UPSCALER, title, path, settings)


def _own(flags: bool = False) -> set[str]:
    """Options that each may have its own of, by their names in a program; flags: those without a value alone."""
    from ..pipeline import RestoreOptions

    known = {one.name: one.type for group in (Settings, RestoreOptions) for one in fields(group)}
    known |= dict.fromkeys(("vae_tile", "vae_memory", "vae_attention", *SLIDERS), "number")
    groups = ("options", "vae", "sliders")
    return {
        name
        for name, kind in known.items()
        if name not in (*_FIXED, *groups) and (kind == "bool" or not flags)
    }


def _settings(path: str, own: Mapping[str, str], common: Mapping[str, Any]) -> Settings:
    """Those of `osediff upscale` with the common options and these of its own."""
    strange = [key for key in own if key.replace("-", "_") not in _own()]
    if strange:
        raise OptionError(
            f"{path} takes no {strange[0]}; give options of osediff upscale, as {path},tile=64."
        )
    reader = Parser(prog="osediff upscale")
    add_options(reader)
    words = ["-", "-o", "-", *(word for key, value in own.items() for word in _word(path, key, value))]
    args = reader.parse_args(words, argparse.Namespace(**common))
    check(args)
    return settings_of(args)


def _word(path: str, key: str, value: str) -> list[str]:
    """An option as `osediff upscale` takes it."""
    if key.replace("-", "_") not in _own(flags=True):
        return [f"--{key}={value}"]
    if value not in ("yes", "no"):
        raise OptionError(f"{path} takes {key}=yes or {key}=no, not {quoted(value)}.")
    return [f"--{key}"] if value == "yes" else []


@dataclass
class Record:
    """What is known of the results in a folder, kept beside them: a run that was stopped, or made with the same
    settings, files and pictures, is gone on with.
    """

    file: Path
    made_by: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path, settings: Settings | None) -> Record:
        """The record in a file; an empty one where other settings or files made it, or where it cannot be read."""
        made_by = json.loads(json.dumps({"version": __version__, **_made_by(settings)}))
        try:
            found = parse_json(file.read_bytes())
        except (OSError, ValueError):
            return cls(file, made_by)
        if not isinstance(found, dict) or found.get("made_by") != made_by:
            logger.info("%s: results of other options, weights or versions are made anew", file.parent)
            return cls(file, made_by)
        pictures, facts = found.get("pictures"), found.get("facts")
        if not (isinstance(pictures, dict) and isinstance(facts, dict)):
            return cls(file, made_by)
        return cls(file, made_by, facts, {k: v for k, v in pictures.items() if isinstance(v, dict)})

    def has(self, job: FileJob) -> bool:
        """Whether the result is there, of the picture as it is now, and as it was written."""
        known = self.pictures.get(job.output.name, {})
        return (
            is_done(job.output)
            and known.get("input") == _stamp(job.source)
            and known.get("output") == _stamp(job.output)
        )

    def add(self, job: FileJob, seconds: float | None) -> None:
        """A result that was just written. Raises ImageError, DiskFull where this cannot be noted."""
        stamps = {"input": _stamp(job.source), "output": _stamp(job.output)}
        self.pictures[job.output.name] = {"seconds": seconds, **stamps}
        self.save()

    def save(self) -> None:
        """Raises ImageError, DiskFull."""
        found = {"made_by": self.made_by, "facts": self.facts, "pictures": self.pictures}
        with writing(ImageError, f"{self.file} cannot be written", "choose another output (-o)"):
            write_bytes_atomically(self.file, (json.dumps(found, indent=1) + "\n").encode())

    def seconds(self) -> dict[str, float]:
        """Of each picture by name."""
        return {
            Path(name).stem: known["seconds"]
            for name, known in self.pictures.items()
            if isinstance(known.get("seconds"), int | float)
        }


def _made_by(settings: Settings | None) -> dict[str, Any]:
    """The settings, and the files that they name as they are now."""
    if settings is None:
        return {}
    paths = [settings.weights, settings.base, settings.decoder, settings.dape, settings.ram]
    return {
        "settings": options_of(settings),
        "files": {path: _stamps(Path(path)) for path in paths if path is not None and os.path.exists(path)},
    }


def _stamps(path: Path) -> list[Any]:
    """Of a file and its neighbours, of which some methods have several, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob("*.p*")
    return [[str(file), *_stamp(file)] for file in sorted({path, *files}) if file.is_file()]


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
