"""The start of the command: hears Ctrl-C before anything else is imported, and leaves without Python's own words."""

import os
import signal
import sys

from ..version import SCHEMA_VERSION, __version__


def _end_at_once(number: int, _: object) -> None:
    """Nothing has been begun yet: there is nothing to sum up."""
    word = "interrupted" if number == signal.SIGINT else "terminated"
    try:
        os.write(2, f"osediff: error: {word}\n".encode())
        if {"--json", "--json-lines"} & set(sys.argv):
            event = '"event": "end", ' if "--json-lines" in sys.argv else ""
            document = f'"version": "{__version__}", "schema_version": {SCHEMA_VERSION}, "error": "{word}"'
            os.write(1, f'{{{event}{document}, "kind": "KeyboardInterrupt"}}\n'.encode())
    finally:
        os._exit(128 + number)


_HEARD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
for _number in _HEARD:
    # ignored: as under nohup; __mp_main__: this is a process of another, which imports what that one began with
    if signal.getsignal(_number) is not signal.SIG_IGN and "__mp_main__" not in sys.modules:
        signal.signal(_number, _end_at_once)


def main() -> int:
    """Runs the command line of this process; returns the exit code."""
    from .streams import finish, open_missing

    open_missing()
    from .main import main as run

    try:
        return run()
    finally:
        for number in _HEARD:
            signal.signal(number, signal.SIG_IGN)  # all is done and said
        finish()
