"""`python -m corruptkit_train` is `corruptkit-train`; `accelerate launch -m corruptkit_train` starts it on every device."""

import sys

from corruptkit_train.cli import main

if __name__ == "__main__":
    sys.exit(main())
