"""Files that are replaced in one step: written under another name, synchronised and renamed.

A process may be killed and a machine may lose power at any moment. A file that is replaced here then has its old or its new content,
never a part of one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".incomplete-"  # begins the name of what a killed process may leave behind


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which replaces `path` when the block ends and all of it is on the disk. After an error `path` is as before.

    Raises:
        OSError: the disk is full or read-only.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
        publish(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def replace_text(path: Path, text: str) -> None:
    """Replaces `path` by a file with this text.

    Raises:
        OSError: the disk is full or read-only.
    """
    with replacing(path) as file:
        file.write(text.encode())


def publish(temporary: Path, path: Path) -> None:
    """Renames a file that is complete to `path`, in the same file system, when all of it is on the disk.

    Raises:
        OSError: the disk is full or read-only.
    """
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on the disk. Not for a file that somebody may read meanwhile: see `replacing`.

    Raises:
        OSError: the disk is full or read-only.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk.

    Raises:
        OSError: it could not be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
