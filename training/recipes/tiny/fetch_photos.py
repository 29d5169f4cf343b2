"""Fetch the openly licensed photographs that the embedded model is trained on.

    python -m training.recipes.tiny.fetch_photos --out photos [--packages-only | --git-only]

Two kinds of source: Debian packages, in the version that the named suite holds (read through apt with private state,
nothing is installed; Debian only), and git repositories at fixed commits. What was fetched before is kept, so the
command can be run again after a lost connection. Licences per source: the tables below and the model card.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

log = logging.getLogger(__name__)

DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class DebianPackage:
    """Photographs inside a Debian package of the given suite."""

    name: str
    suite: str
    licence: str


@dataclass(frozen=True)
class GitSource:
    """Photographs inside a git repository at a fixed commit, below `folder`."""

    name: str
    url: str
    commit: str
    folder: str
    licence: str


DEBIAN = (
    DebianPackage("budgie-backgrounds", "trixie", "CC0-1.0"),
    DebianPackage("wordpress-theme-twentytwentyfour", "trixie", "CC0-1.0"),
    DebianPackage("wordpress-theme-twentytwentyfive", "trixie", "CC0-1.0"),
)
GIT = (
    GitSource(
        "clic2025", "https://github.com/imazen/codec-corpus", "55decfe8", "clic2025", "Unsplash licence"
    ),
    GitSource("pop-os", "https://github.com/pop-os/wallpapers", "03a25a14", "original", "Unsplash licence"),
    GitSource("gb82", "https://github.com/gianni-rosato/gb82-image-set", "502f9f94", "png", "CC0-1.0"),
    # Kodak is for validation only; the trainer never reads a folder of this name.
    GitSource("kodak", "https://github.com/imazen/codec-corpus", "55decfe8", "kodak", "unrestricted"),
)


def _run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def _debian_mirror() -> str:
    """The Debian archive that this machine's apt already uses."""
    for line in _run("apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)").splitlines():
        uri, origin, label = line.split("|")
        if origin == label == "Debian":
            return uri
    raise OSError(
        "apt on this machine knows no Debian archive: run `apt-get update` first, or use --git-only"
    )


def fetch_debian(package: DebianPackage, out: Path) -> None:
    """Unpack `package`'s photographs into `out`/NAME with a private apt state; the system is not changed."""
    target = out / package.name
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        sources = scratch / "sources.list"
        sources.write_text(f"deb [signed-by={DEBIAN_KEYRING}] {_debian_mirror()} {package.suite} main\n")
        options = [
            f"-oDir::State={scratch}/state",
            f"-oDir::Cache={scratch}/cache",
            f"-oDir::Etc::sourcelist={sources}",
            "-oDir::Etc::sourceparts=-",
        ]
        _run("apt-get", *options, "update")
        _run("apt-get", *options, "download", package.name, cwd=scratch)
        _run("dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), str(scratch / "tree"))
        _collect(scratch / "tree", target)


def fetch_git(source: GitSource, out: Path) -> None:
    """Copy the photographs of one repository at its fixed commit into `out`/NAME."""
    target = out / source.name
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name) / "repo"
        _run("git", "clone", "--filter=blob:none", "--no-checkout", source.url, str(scratch))
        _run("git", "sparse-checkout", "set", source.folder, cwd=scratch)
        _run("git", "checkout", source.commit, cwd=scratch)
        _collect(scratch / source.folder, target)


def _collect(tree: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in sorted(tree.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.is_symlink():
            copy = partial / path.relative_to(tree)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    partial.rename(target)
    log.info("%s: %d pictures", target.name, sum(path.is_file() for path in target.rglob("*")))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 if all is there, 1 if a source could not be fetched, for which the others do not wait."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--packages-only", action="store_true", help="only the Debian packages")
    only.add_argument("--git-only", action="store_true", help="only the git repositories")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    sources = [(p.name, partial(fetch_debian, p, args.out)) for p in DEBIAN if not args.git_only]
    sources += [(g.name, partial(fetch_git, g, args.out)) for g in GIT if not args.packages_only]
    failed = []
    for name, fetch in sources:
        try:
            fetch()
        except (OSError, subprocess.CalledProcessError) as error:
            failed.append(name)
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            log.warning("%s: not fetched (%s)", name, said[-1] if said else error)
    if failed:
        log.error(
            "Not fetched: %s; run the command again when their hosts can be reached, or go on without them.",
            ", ".join(failed),
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
