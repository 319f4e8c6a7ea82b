"""SIGTERM while Ray starts: it stays with the handler of this program.

Ray's core sets a handler of its own when a driver connects, which writes a stack and ends the process with another exit code and without a
checkpoint. All threads block the signal from before they are made until our handler is back, so that it waits for a second or two.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

TERMINATION = {signal.SIGTERM}


@contextlib.contextmanager
def own_handler() -> Iterator[None]:
    """Keeps the handler of SIGTERM while the block starts Ray; a signal that comes meanwhile is handled after it."""
    before, mask = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def block_termination() -> None:
    """Leaves SIGTERM to other threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION)


@contextlib.contextmanager
def without_block() -> Iterator[None]:
    """Lets processes that are started in the block receive SIGTERM: they would inherit that it is blocked."""
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
