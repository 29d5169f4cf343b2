"""Where the reference numbers are: small ones in the repository, more of them in a folder beside it."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN_DATA = Path(__file__).parent / "data"


def reference_folder() -> Path | None:
    """OSEDIFF_REFERENCE, or the folder `shared` beside the repository; None if it is not there."""
    folder = Path(os.environ.get("OSEDIFF_REFERENCE") or Path(__file__).parents[3] / "shared")
    return folder if folder.is_dir() else None


def inference_cases() -> list[Path]:
    """Every case at hand, each once. The official code's own VAE tiles are left out: they are not exact."""
    found = {path.name: path for path in sorted(GOLDEN_DATA.glob("inference_*.npz"))}
    folder = reference_folder()
    for path in sorted((folder / "golden").glob("inference_*.npz")) if folder else []:
        found.setdefault(path.name, path)
    return [path for name, path in found.items() if "vae_" not in name]


class Golden(dict):
    """The arrays of one file of reference numbers, as tensors by name. path: the file."""

    def __init__(self, path: Path) -> None:
        import numpy as np
        import torch

        with np.load(path) as data:
            super().__init__({key: torch.from_numpy(data[key]) for key in data.files})
        self.path = path


def peer_cases(start: str) -> list[object]:
    """Every case of another method whose file's name begins so, as parameters of the fixture `golden`."""
    import pytest

    folder = reference_folder()
    found = sorted((folder / "golden" / "peers").glob(f"{start}*.npz")) if folder else []
    if not found:
        skip = pytest.mark.skip(reason="the larger reference data are not here (OSEDIFF_REFERENCE)")
        return [pytest.param(None, marks=skip, id="none")]
    return [pytest.param(path, id=path.stem) for path in found]


def write_peers(reference: Path, folder: Path) -> Path:
    """Other methods' random weights for the miniature, in their official formats, by the reference data's program."""
    import os
    import subprocess
    import sys

    program = reference / "golden" / "peers" / "make_peer_weights.py"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(
        [sys.executable, program, "--out", folder], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return folder
