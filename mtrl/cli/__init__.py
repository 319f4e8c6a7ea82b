"""The command line: `dispatch` finds the command, `commands` has one file for each."""

from __future__ import annotations

import getpass
import locale
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code, see `mtrl.cli.dispatch.main`."""
    from mtrl.cli import dispatch  # not at the top: `doctor` imports this package in processes that need one check alone

    return dispatch.main(arguments)


def entry_point() -> None:
    """The command of the installed package."""
    _with_streams()
    _in_utf8()
    _with_a_user()
    _in_a_folder()
    from mtrl.cli import dispatch

    dispatch.entry_point()


def _with_streams() -> None:
    """Standard streams that are closed (`>&-`, some daemons) become /dev/null: else the next file that is opened gets their number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  (for as long as the process)


def _in_a_folder() -> None:
    """Libraries look for their files from the current folder on, and end the process where it has been deleted."""
    try:
        os.getcwd()
    except OSError as error:
        print(f"error: the current folder cannot be used ({error.strerror}); change to another one", file=sys.stderr)
        sys.exit(2)


def _in_utf8() -> None:
    """Files are UTF-8 whatever the locale is, and no character that the terminal lacks ends a command.

    Python decides on its encoding when it starts, so that in a locale with another one it is started again, in UTF-8 mode. What is printed
    stays in the locale's encoding.
    """
    encoding = locale.getencoding()
    if not sys.flags.utf8_mode and encoding.lower().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"
        os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:replace")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _with_a_user() -> None:
    """A container may run as a user id without a name and a home folder, and libraries ask for both when they are imported."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"
