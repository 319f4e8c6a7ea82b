"""How far something is that takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import Progress


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how many of how many are over while something is awaited; nothing where there is no terminal."""
    terminal = rich.console.Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
