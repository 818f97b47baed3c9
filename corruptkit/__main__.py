"""`python -m corruptkit` is `corruptkit`."""

import sys

from corruptkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
