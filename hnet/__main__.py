"""`python -m hnet` is the `hnet` command."""

import sys

from hnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
