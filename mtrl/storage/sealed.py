"""Files that are either whole or recognized as damaged: written under another name and renamed, and sealed by a hash.

A process may be killed and a machine may lose power at any moment. A file that is replaced here has its old or its new content then,
never a part of one. A text that is sealed says so in its first line, so that a part of it is not taken for a text without a seal.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mtrl.errors import UserError

TEMPORARY = ".incomplete-"  # begins the name of what a killed process may leave behind
FIRST_LINE = "# sealed: the last line is the SHA-256 of everything above it; to change this file, delete this line and the last one\n"
_LAST_LINE = re.compile(r"^# sha256: [0-9a-f]{64}$", re.MULTILINE)


class DamagedFileError(UserError):
    """A file is not what was written."""


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


def sealed(text: str) -> str:
    """The text between two comment lines: the first says that it is sealed, the last is the hash of everything above."""
    above = FIRST_LINE + text
    return f"{above}# sha256: {hashlib.sha256(above.encode()).hexdigest()}\n"


def check_seal(text: str, path: Path) -> None:
    """Refuses a sealed text that has changed, or that is a part of one. A text without a seal passes.

    Args:
        text: the file's content.
        path: the file, for the message.

    Raises:
        DamagedFileError: one sentence that says what to do.
    """
    marked = text.startswith(FIRST_LINE[: len("# sealed:")]) or (text != "" and FIRST_LINE.startswith(text))
    if not marked and not _LAST_LINE.search(text):
        return
    body, last, _ = text.removeprefix(FIRST_LINE).rpartition("# sha256: ")
    if not last or text != sealed(body):
        raise DamagedFileError(
            f"{path} is damaged or was changed: its content does not match its SHA-256; restore it from a copy, or, if the change was "
            "meant, delete its first line '# sealed: ...' and its last line '# sha256: ...' to accept the file as it is"
        )
