"""The first minute of a newcomer: a fresh ComfyUI, the page of templates, a workflow, Run, the result.

    python examples/headless/first_minute.py

Takes the time of each step, and a picture of it for docs/first_minute.md. Needs playwright and /usr/bin/chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `headless`

from headless.browser import open_comfyui
from headless.demo import installed_comfyui
from headless.server import PACK, ComfyServer
from headless.workflow_notes import ABOUT

PICTURES = PACK / "docs" / "images"
TEMPLATE = ABOUT["restore_photo"].file_stem


def main() -> int:
    """Prints a line for each step."""
    began = time.monotonic()

    def step(number: int, words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)
        page.screenshot(PICTURES / f"first_minute_{number}.jpg")

    tree = installed_comfyui()
    with tempfile.TemporaryDirectory() as base, ComfyServer(tree, Path(base)) as server:
        shutil.copytree(tree / "input", server.base / "input", dirs_exist_ok=True)  # as it comes
        print(f"{time.monotonic() - began:6.1f} s  ComfyUI answers", flush=True)
        with open_comfyui(server.url, 1920, 1080) as page:
            page.browse_templates("osediff")
            step(1, "the page of templates, osediff searched")
            page.choose_template(TEMPLATE)
            step(2, "the workflow is open")
            event, detail = page.queue(seconds=600)
            if event != "execution_success":
                raise SystemExit(f"The workflow does not run: {event} {detail}")
            page.wait_for_timeout(1500)
            step(3, "the picture is restored")
    return 0


if __name__ == "__main__":
    sys.exit(main())
