"""The command line's front door: `python launch.py --help`."""

from mtrl.cli import entry_point

if __name__ == "__main__":
    entry_point()
