"""Draws the README's pictures of the report: `python docs/draw_pages.py RUN...` with Chromium on the machine (or named by CHROMIUM)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mtrl.dashboard.report import write_report

DOCS = Path(__file__).parent


def main() -> None:
    """Writes `docs/report.png` from the runs named on the command line."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: no Chromium found; install it or name it with CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report([Path(run) for run in sys.argv[1:]], page)
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1280,1180",
            "--virtual-time-budget=8000",
        ]
        subprocess.run([chromium, *options, f"--screenshot={DOCS / 'report.png'}", page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
