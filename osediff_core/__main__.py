"""`python -m osediff_core` is the command `osediff`."""

import sys

from .cli.start import main

if __name__ == "__main__":
    sys.exit(main())
