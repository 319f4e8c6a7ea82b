"""The seal of a text: a first line that announces it, and a last line with the hash of everything above.

A text that is sealed says so in its first line, so that a part of it is not taken for a text without a seal.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from mtrl.errors import UserError

FIRST_LINE = "# sealed: the last line is the SHA-256 of everything above it; to change this file, delete this line and the last one\n"
_LAST_LINE = re.compile(r"^# sha256: [0-9a-f]{64}$", re.MULTILINE)


class DamagedFileError(UserError):
    """A file is not what was written."""


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
