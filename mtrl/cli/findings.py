"""Findings on the terminal. Apart from the other tables, since `doctor` must not import what may be broken."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from mtrl.machine import Finding


def findings_table(findings: Sequence[Finding]) -> Table:
    """Findings below each other, each with its level in colour."""
    table = Table.grid(padding=(0, 2))
    for width in (7, 24, None):
        table.add_column(width=width, no_wrap=width == 7)
    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    for finding in findings:
        table.add_row(Text(finding.level, style=styles[finding.level]), Text(finding.subject), Text(finding.text))
    return table
