"""The command line's front door: `python launch.py --help`."""

import sys

from mtrl.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
