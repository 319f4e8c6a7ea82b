"""One training at a time in a run's directory: two that write the same curves and checkpoints would spoil both without a word."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mtrl.storage.layout import RunLayout
from mtrl.storage.run_directory import RunDirectoryError

PATIENCE_SECONDS = 180.0  # a file server gives up on a lost machine's locks after about 90
POLL_SECONDS = 0.5
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # some file systems of clusters


@contextmanager
def run_lock(run: Path, *, patience: float = 0.0, tell: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """Holds the run's directory until the block ends or this process dies, however it dies.

    A lock may outlive its holder where the directory is a file server's and the holder's machine was lost. So with patience a directory
    that is held, but that nothing is written to any more, is waited for and then taken over.

    Args:
        run: the run's directory.
        patience: seconds to wait for a holder that writes nothing.
        tell: told why nothing happens for a while.

    Raises:
        RunDirectoryError: another process is training there.
    """
    try:
        file = RunLayout(run).lock.open("a+")
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {run}: {error.strerror}") from None
    with file:
        _wait_for(file, run, patience, tell)
        file.truncate(0)
        file.write(f"process {os.getpid()} of {platform.node()}\n")
        file.flush()
        yield


def _wait_for(file: IO[str], run: Path, patience: float, tell: Callable[[str], None]) -> None:
    written, until, told = _newest(run), time.monotonic() + patience, False
    while not _locked(file):
        file.seek(0)
        holder = file.read().strip() or "another process"
        if patience == 0 or _newest(run) != written:
            raise RunDirectoryError(f"{run} is being trained by {holder}; end that one first, or begin another run with --run-dir")
        if time.monotonic() >= until:
            tell(f"warning: {holder} still holds {run}, but wrote nothing for {patience:.0f} s: taken for lost")
            return
        if not told:
            tell(f"{holder} holds {run}; waiting up to {patience:.0f} s for a sign of life")
            told = True
        time.sleep(min(POLL_SECONDS, patience))


def _locked(file: IO[str]) -> bool:
    """Whether this process holds the lock; on a file system without locks it always does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS_HERE
    return True


def _newest(run: Path) -> tuple[int, ...]:
    """Changes whenever a training reports or saves."""
    return tuple(path.stat().st_mtime_ns for path in (RunLayout(run).metrics, RunLayout(run).checkpoints) if path.exists())
