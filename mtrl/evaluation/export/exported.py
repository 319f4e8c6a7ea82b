"""What an export has written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SPEED_ROWS = 64


class Exported(NamedTuple):
    """The result of an export."""

    folder: Path
    differences: dict[str, float]  # of each file from the policy, relative to the scale of its outputs
    experts: int  # experts in the file
    of_experts: int  # experts in the policy
    microseconds: float  # time for a row, in batches of SPEED_ROWS
    microseconds_before: float | None  # the same of the whole policy, if one task was folded
