"""`python -m osediff_core` is the command `osediff`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
