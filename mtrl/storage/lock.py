"""One training at a time in a run's directory: two that write the same curves and checkpoints would spoil both without a word."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        claim = _wait_for(file, run, patience, tell)
        file.truncate(0)
        file.write(f"process {os.getpid()} of {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            if claim is not None:
                claim.release()


def _wait_for(file: IO[str], run: Path, patience: float, tell: Callable[[str], None]) -> Claim | None:
    """Waits until the directory is ours; the claim that holds it, where the file system has no locks."""
    written, until, told = _newest(run), time.monotonic() + patience, False
    claim, found = None, ""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except OSError as error:
            if error.errno in _NO_LOCKS_HERE:
                claim = claim or Claim(RunLayout(run).claim)
                if claim.make():
                    return claim
                found = found or claim.read()
        file.seek(0)
        holder = file.read().strip() or "another process"
        lost = time.monotonic() >= until and patience > 0 and not _lives_here(holder)
        if lost and (claim is None or claim.take_over(found)):
            tell(f"warning: {holder} still holds {run}, but wrote nothing for {patience:.0f} s: taken for lost")
            return claim
        if patience == 0 or time.monotonic() >= until or _newest(run) != written:
            hint = f" (should it have gone with its machine, remove {claim.path})" if claim is not None else ""
            raise RunDirectoryError(f"{run} is being trained by {holder}{hint}; end that one first, or begin another run with --run-dir")
        if not told:
            tell(f"{holder} holds {run}; waiting up to {patience:.0f} s for a sign of life")
            told = True
        time.sleep(min(POLL_SECONDS, patience))


class Claim:
    """A file that only one process can make: the lock of file systems that have none, such as NFS without a lock service.

    It outlives a process that is killed. A claim of a process of this machine that has gone is taken over.
    """

    def __init__(self, path: Path):
        self.path = path
        self._own = f"{_machine()} {os.getpid()} {_start_of(os.getpid())}"

    def make(self) -> bool:
        """Whether the claim is ours now."""
        if self._create():
            return True
        found = self.read()
        return _has_ended(found) and self.take_over(found)

    def release(self) -> None:
        """Removes the claim, unless another process has taken it over."""
        with suppress(OSError):
            if self.read() == self._own:
                self.path.unlink()

    def take_over(self, found: str) -> bool:
        """Puts our claim in the place of one with this content; whether no other process was faster.

        The old one is renamed, not removed: of several processes that want it only one moves it, and a newer claim is not touched.
        """
        aside = self.path.with_name(f"{self.path.name}-{os.getpid()}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:  # another one was faster
            return False
        if aside.read_text() != found:
            aside.rename(self.path)
            return False
        aside.unlink()
        return self._create()

    def _create(self) -> bool:
        try:
            with self.path.open("x") as file:
                file.write(self._own)
        except FileExistsError:
            return False
        return True

    def read(self) -> str:
        """The content of the claim; empty if there is none."""
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return ""


def _has_ended(claim: str) -> bool:
    """Whether the claim is of a process of this machine that has gone; an empty one is just being written."""
    machine, _, process = claim.partition(" ")
    number, _, start = process.partition(" ")
    return machine == _machine() and number.isdigit() and _start_of(int(number)) != start


def _machine() -> str:
    """Names this start of this machine, and the container: numbers of processes mean something only within them."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return ",".join(parts)


def _start_of(pid: int) -> str:
    """When a process was started, in the system's ticks; empty if there is none, so that a number that is used again is not mistaken."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _lives_here(holder: str) -> bool:
    """Whether `process N of HOST` is a process of this machine that lives, whether it writes anything or not."""
    number, _, host = holder.removeprefix("process ").partition(" of ")
    return host == platform.node() and number.isdigit() and _start_of(int(number)) != ""


def _newest(run: Path) -> tuple[int, ...]:
    """Changes whenever a training reports, saves, or waits for an evaluation."""
    layout = RunLayout(run)
    return tuple(path.stat().st_mtime_ns for path in (layout.metrics, layout.checkpoints, layout.state) if path.exists())
