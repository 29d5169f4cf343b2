"""Type check of osediff_core, nodes and training by pyright, with ComfyUI's own sources on its path.

    python tests/typecheck.py      # exit code 1 if there are errors; in the environment of the extras lint and test

Where there is no ComfyUI (examples/headless/fetch.py gets one), nodes is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # for `headless`

from headless import FetchError
from headless.demo import installed_comfyui


def main() -> int:
    root = Path(__file__).parents[1]
    # without a look at which version of pyright is the newest
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    checked = []  # what pyproject.toml names
    try:
        environment["PYTHONPATH"] = str(installed_comfyui())  # pyright asks the interpreter for its path
    except FetchError as error:
        sys.stderr.write(f"The types of nodes are NOT checked: {error}\n")
        checked = ["osediff_core", "training"]
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *checked]
    return subprocess.run(command, cwd=root, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
