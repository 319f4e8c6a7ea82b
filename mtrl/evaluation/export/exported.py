"""What an export has written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SPEED_ROWS = 64


class Exported(NamedTuple):
    """The result of an export."""

    folder: Path
    experts: int  # experts in the file
    of_experts: int  # experts in the policy
    microseconds: float  # time for a row, in batches of SPEED_ROWS
    microseconds_before: float | None  # the same of the whole policy, if one task was folded
