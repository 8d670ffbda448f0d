"""``python -m alan`` is the same as the command ``alan``."""

import sys

from alan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
