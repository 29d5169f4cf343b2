"""`osediff completion`: a script by which a shell completes commands, options and files, made by shtab."""

from __future__ import annotations

import argparse

from ..errors import OSEDiffError
from .outcome import DONE, Outcome

HELP = "print a script that completes commands and options in a shell"
EXAMPLES = """osediff completion bash > ~/.local/share/bash-completion/completions/osediff
osediff completion zsh > ~/.zfunc/_osediff
osediff completion fish > ~/.config/fish/completions/osediff.fish
"""

SHELLS = ("bash", "zsh", "fish")
_FILES = frozenset(
    {"FILE", "PATH", "IN", "OUT", "BASE", "LQ", "HR", "METHOD", "RESULTS", "GROUND_TRUTH", "NAME|FILE.yaml"}
)
_FOLDERS = frozenset({"FOLDER"})


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("shell", choices=SHELLS, help="which shell the script is for")


def run(args: argparse.Namespace) -> Outcome:
    """The script as text, and under "script" as JSON. Raises OSEDiffError where shtab is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise OSEDiffError("Scripts for shells are made by the package shtab; pip install shtab.") from error

    for command in args.parser.commands.values():
        for action in command._actions:
            if action.metavar in _FILES | _FOLDERS:  # shtab reads the attribute "complete"
                vars(action)["complete"] = shtab.FILE if action.metavar in _FILES else shtab.DIRECTORY
    script = shtab.complete(args.parser, shell=args.shell)
    data = {"command": "completion", "shell": args.shell, "script": script}
    return Outcome(DONE, script.splitlines(), data)
