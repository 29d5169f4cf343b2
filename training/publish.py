"""A finished run on the Hugging Face hub: its weights, LoRA files, last sheet, and a model card written from the run.

    python -m training.publish RUN owner/name

The repository is made if there is none, and is private then. Needs a token with the right to write (hf auth login, or
HF_TOKEN). RUN/README.md is the card; a changed one is kept, so write into it what the run does not know.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, ModelCardData, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from osediff_core.atomic import write_bytes_atomically
from osediff_core.cli.entry import run_main
from osediff_core.errors import OptionError, explained, first_line

from .run.checkpoints import saved_settings
from .run.errors import TrainingError
from .run.logs import METRICS, read_log

log = logging.getLogger("training")

CARD = "README.md"
_PUBLISHED = (CARD, "weights.safetensors", "weights.pkl", "lora_*.safetensors", "vae/*")
_MARK = "<!-- written by training.publish: remove this line to keep your own text -->"


def check_can_publish(repo: str) -> None:
    """Raises OptionError for a name that the hub does not take, and where there is no token."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise OptionError(f"{repo!r} is no repository ({first_line(error)}); write owner/name.") from error
    if repo.count("/") != 1:
        raise OptionError(f"{repo!r} is no repository; write owner/name.")
    if get_token() is None:
        raise OptionError("The hub needs a token to write; run hf auth login, or set HF_TOKEN.")


def publish(run: Path, repo: str) -> str:
    """Upload the results of a finished run; the address of the repository.

    Raises OptionError as `check_can_publish`, TrainingError for a run without results or a hub that does not take them.
    """
    check_can_publish(repo)
    sheet = _last_sheet(run)
    shown = [sheet.relative_to(run).as_posix()] if sheet else []
    if not any(run.glob("weights.*")):
        raise TrainingError(f"{run} has no weights yet, as its training has not ended; publish it then.")
    _write_card(run, repo, shown)
    api = HfApi()
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=run,
            allow_patterns=[*_PUBLISHED, *shown],
            commit_message="Upload the results of a run",
        )
    except Exception as error:  # its own and network errors of many kinds
        raise TrainingError(
            f"{repo} did not take {run} ({first_line(error)}); try again by python -m training.publish {run} {repo}."
        ) from error
    return str(url)


def card_of(run: Path, repo: str, sheets: Sequence[str] = ()) -> str:
    """The model card, Markdown with the hub's header, from the run's configuration and figures."""
    settings = saved_settings(run)
    model = settings.get("model", {})
    method, base = str(model.get("method", "osediff")), str(model.get("base", "unknown"))
    header = ModelCardData(
        base_model=base if base.count("/") == 1 and not Path(base).exists() else None,
        pipeline_tag="image-to-image",
        tags=["super-resolution", "image-restoration", "one-step-diffusion", method],
    )
    lora = [path.name for path in sorted(run.glob("lora_*.safetensors"))]
    parts = [
        f"---\n{header.to_yaml()}\n---\n{_MARK}",
        f"# {repo.partition('/')[2]}",
        f"Weights of the one-step super-resolution method {method} for the base {Path(base).name}, trained "
        f"{settings.get('steps', '?')} steps by [ComfyUI-OSEDiff](https://github.com/osediff/ComfyUI-OSEDiff).",
        "```sh\nosediff upscale photo.png -o out/ --base BASE --weights "
        f"{next(path.name for path in sorted(run.glob('weights.*'), reverse=True))}\n```",
    ]
    if lora:
        parts.append(
            f"{' and '.join(lora)}: the UNet's update as LoRA for those programs; `vae/` is the VAE with it."
        )
    figures = _last_validation(run)
    if figures:
        rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
        parts.append(
            f"## Validation\n\nMeans over the run's fixed pairs.\n\n| figure | value |\n|---|---|\n{rows}"
        )
    parts += [f"![low quality, restored, reference]({sheet})" for sheet in sheets]
    parts.append(f"## Settings\n\n```yaml\n{yaml.safe_dump(_without_places(settings), sort_keys=False)}```")
    return "\n\n".join(parts) + "\n"


def _write_card(run: Path, repo: str, sheets: Sequence[str]) -> None:
    path = run / CARD
    with explained(TrainingError, f"The model card {path} cannot be written", "mend the folder"):
        if path.exists() and _MARK not in path.read_text(encoding="utf-8"):
            return
        write_bytes_atomically(path, card_of(run, repo, sheets).encode())


def _last_validation(run: Path) -> dict[str, float]:
    """The finite figures of the last one; nothing without any."""
    rows = [row for row in read_log(run) if row["kind"] == "validation"] if (run / METRICS).exists() else []
    return {name: value for name, value in rows[-1]["values"].items() if value == value} if rows else {}


def _last_sheet(run: Path) -> Path | None:
    return max((run / "sheets").glob("*.png"), default=None)


def _without_places(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """The settings with what is a path of this machine cut to its last name."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.publish", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run that has ended")
    parser.add_argument("repo", metavar="OWNER/NAME", help="of the model on the hub")
    args = parser.parse_args(argv)
    return run_main(lambda: log.info("%s", publish(args.run, args.repo)), log)


if __name__ == "__main__":
    sys.exit(main())
