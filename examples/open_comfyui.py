"""ComfyUI with this pack and no other, to look at: the page opens in the browser, Ctrl-C ends it.

    python examples/open_comfyui.py [--base demo_output/comfyui]

Pictures that are made and settings stay in the base folder. `make comfyui` also gets ComfyUI where there is none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import webbrowser
from pathlib import Path

from headless import ComfyServer, FetchError, ServerError
from headless.demo import installed_comfyui
from headless.workflow_notes import ABOUT

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Open ComfyUI with this pack.")
    parser.add_argument("--base", type=Path, default=HERE.parent / "demo_output" / "comfyui")
    args = parser.parse_args()
    try:
        tree = installed_comfyui()
        print("ComfyUI starts, in half a minute or so ...", flush=True)
        with ComfyServer(tree, args.base) as server:
            shutil.copytree(tree / "input", server.base / "input", dirs_exist_ok=True)
            print(f"{server.url}   Ctrl-C ends it; pictures are in {server.base / 'output'}")
            print(
                f"Choose All Templates there, search for osediff, open {ABOUT['restore_photo'].file_stem}, Run."
            )
            webbrowser.open(server.url)
            while server.running:
                time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except (FetchError, ServerError) as error:
        print(f"ComfyUI cannot be opened: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
