"""The place of a base model: a folder, a single file, a hub id, or one that comes with the package."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import BaseModelError, OptionError, first_line
from ..printable import quoted
from .base_configs import read_json
from .tokenizer import TOKENIZER_FILES

logger = logging.getLogger(__name__)

PACKAGED = {"tiny": Path(__file__).parent.parent / "tiny"}
DEFAULT_WEIGHTS = "osediff.safetensors"
PROMPTS = "prompts"  # embeddings that lie in a merged base's folder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# One precision of each part; repositories often hold several, and each is gigabytes. Nothing that is code.
_HUB_PATTERNS = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    *(f"tokenizer/{name}" for name in TOKENIZER_FILES),
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    DEFAULT_WEIGHTS,
]


@dataclass(frozen=True)
class Source:
    """A base model on this disk.

    name: as the user gave it. path: a diffusers folder or a single file. grows: whether embeddings of new prompts may
    be kept in it, as it is a cache.
    """

    name: str
    path: Path
    grows: bool = False

    @property
    def default_weights(self) -> Path | None:
        """The OSEDiff weights that lie in the base's own folder, if there are any."""
        path = self.path / DEFAULT_WEIGHTS
        return path if self.path.is_dir() and path.is_file() else None


def find_base(base: str | Path, allow_download: bool = False, revision: str | None = None) -> Source:
    """Find what `base` names: a packaged name ("tiny"), a diffusers folder, a single file, or a hub id.

    A file is not opened here. A hub id is looked for in the local cache; it is downloaded (resumably, with a
    progress bar) only with allow_download. revision: the hub's commit or branch, for hub ids only.
    Raises BaseModelError if nothing is found, OptionError for a revision of anything but a hub id.
    """
    name = str(base)
    if revision is not None:
        check_revision(base)
    if name in PACKAGED:
        if not PACKAGED[name].is_dir():
            raise BaseModelError(
                f"The base {name!r} that belongs to this package is not installed; install the package again."
            )
        return Source(name, PACKAGED[name])
    path = Path(
        os.path.expanduser(base)
    )  # os.path's questions answer no, where Path's fail, for a name too long
    if os.path.isdir(path):
        if not os.path.isfile(path / "unet" / "config.json"):
            _refuse_transformer(path, name)
            raise BaseModelError(
                f"The folder {name} is not a diffusers model (it has no unet/config.json); give the folder "
                "that holds unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
            )
        return Source(name, path)
    if os.path.isfile(path):
        return Source(name, path)
    if os.path.exists(path):
        raise BaseModelError(f"The base {name} is a pipe or a device; give a file or a diffusers folder.")
    if isinstance(base, str) and _HUB_ID.fullmatch(name):
        return Source(name, _snapshot(name, allow_download, revision))
    raise BaseModelError(
        f"There is no base model at {name!s:.300}; give a diffusers folder, a single-file checkpoint, a hub id, or "
        f"{' or '.join(repr(n) for n in PACKAGED)}."
    )


def first_files(source: Source) -> list[Path]:
    """The files that loading reads to the end; a prompt may not be new, and its encoder is read when one is."""
    if source.path.is_file():
        return [source.path]
    return [path for part in ("unet", "vae") for path in sorted((source.path / part).glob("*.safetensors"))]


def check_revision(base: str | Path) -> None:
    """Raises OptionError for a base that no revision can be of."""
    name = str(base)
    if name in PACKAGED or os.path.exists(os.path.expanduser(base)) or not _HUB_ID.fullmatch(name):
        raise OptionError(
            f"A revision is that of a hub id, which the base {quoted(name)} is not; leave it out."
        )


def _refuse_transformer(path: Path, name: str) -> None:
    config = path / "transformer" / "config.json"
    if os.path.isfile(config):
        kind = read_json(config).get("_class_name", "transformer")
        raise BaseModelError(
            f"The folder {name} is a model of another kind ({kind!s:.60}, not Stable Diffusion's UNet); use a base "
            "such as Stable Diffusion 2.1-base."
        )


def _snapshot(repo: str, allow_download: bool, revision: str | None) -> Path:
    """The local copy of a hub repository. Raises BaseModelError if there is none and none can be got."""
    from huggingface_hub import snapshot_download

    def snapshot(local: bool) -> Path:
        path = snapshot_download(
            repo, revision=revision, allow_patterns=_HUB_PATTERNS, local_files_only=local
        )
        return Path(path)

    if not allow_download:
        try:
            return snapshot(local=True)
        except Exception as error:  # huggingface_hub has many; all mean that the cache cannot serve it
            raise BaseModelError(
                f"The base {repo} is neither a path nor in the local hub cache; allow the download "
                "(--allow-download), or give a folder."
            ) from error
    try:
        path = snapshot(local=False)
    except Exception as error:  # network, permission, unknown name, full disk: the reason is in the message
        raise BaseModelError(
            f"The base {repo} could not be downloaded ({first_line(error)}); check the name and the "
            "connection, and try again: what has arrived is kept."
        ) from error
    logger.info("base %s is the hub's revision %s", repo, path.name)
    return path
