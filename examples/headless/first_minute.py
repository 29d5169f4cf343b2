"""The first minute of a newcomer: a fresh ComfyUI, a fresh browser, the page of templates, a workflow, Run, the result.

    python examples/headless/first_minute.py

Takes the time of each step and a picture of it, and writes docs/first_minute.md with them. Needs playwright and
/usr/bin/chromium.
"""

from __future__ import annotations

import json
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

DOCS = PACK / "docs"
TEMPLATE = ABOUT["restore_photo"].file_stem
PAGE = """# The first minute in ComfyUI

What a newcomer does, from a fresh ComfyUI 0.30 and a fresh browser to a restored picture, with the embedded model on a
processor. `python examples/headless/first_minute.py` does it in Chromium, takes these pictures and writes this page.

| step | seconds | since the start |
| --- | --- | --- |
{steps}

ComfyUI's own start is most of it, and the same without the pack.

## 1. Templates

ComfyUI opens its *Templates* by itself at the first visit. Choose *All Templates* and search for `osediff`.

![The page of templates](images/first_minute_1.jpg)

## 2. The workflow

*{template}* opens at a zoom at which all of it can be read: the note and a small, bad photo on the left, models
and prompt beside them, then the chain from top to bottom, and the result on the right. *choose file to upload* takes
another photo.

![The workflow](images/first_minute_2.jpg)

## 3. Run

The photo becomes 1024 pixels wide. Files are in ComfyUI's `output/osediff`. With Nodes 2.0 (in the settings) *Compare
Images* has a slider; *Side by side* shows both pictures with any kind of nodes.

![The result](images/first_minute_3.jpg)

## Each workflow

From *Run* to the result, models loaded anew, on two CPU cores, measured as `build_workflows.py` makes the pictures:

| template | seconds |
| --- | --- |
{workflows}

## What next

- A better model: the note in each workflow says which two widgets to change for SD 2.1.
- Many pictures: *OSEDiff - A folder of pictures*. Large ones: *OSEDiff - Large pictures in tiles*. Moving ones:
  *OSEDiff - Restore a video*.
- Warnings of the pack's nodes appear on the node and as a message of the page; errors say in one sentence what to do.
"""


class Clock:
    """The rows of the table of steps, as they happen."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.rows: list[str] = []

    def step(self, words: str) -> None:
        """What has just been done."""
        now = time.monotonic()
        self.rows.append(f"| {words} | {now - self.last:.1f} | {now - self.began:.1f} |")
        print(self.rows[-1], flush=True)
        self.last = time.monotonic()


def main() -> int:
    """Prints a line for each step."""
    tree = installed_comfyui()
    clock = Clock()
    with tempfile.TemporaryDirectory() as base, ComfyServer(tree, Path(base)) as server:
        shutil.copytree(tree / "input", server.base / "input", dirs_exist_ok=True)  # as it comes
        clock.step("ComfyUI answers")
        with open_comfyui(server.url, 1920, 1080) as page:
            clock.step("its page is there")
            page.browse_templates("osediff")
            clock.step("`osediff` searched among the templates")
            page.screenshot(DOCS / "images" / "first_minute_1.jpg", dialog=True)
            page.choose_template(TEMPLATE)
            clock.step(f"*{TEMPLATE}* chosen, the workflow is open")
            page.screenshot(DOCS / "images" / "first_minute_2.jpg")
            event, detail = page.queue(seconds=600, by_button=True)
            if event != "execution_success":
                raise SystemExit(f"The workflow does not run: {event} {detail}")
            clock.step("*Run* pressed, the picture is restored")
            page.wait_for_timeout(2500)
            page.screenshot(DOCS / "images" / "first_minute_3.jpg")
    noted = DOCS / "workflow_seconds.json"
    seconds = json.loads(noted.read_text()) if noted.exists() else {}
    rows = [f"| {ABOUT[name].file_stem} | {seconds[name]} |" for name in ABOUT if name in seconds]
    text = PAGE.format(steps="\n".join(clock.rows), template=TEMPLATE, workflows="\n".join(rows))
    (DOCS / "first_minute.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
