"""Draws the README's pictures of report and dashboard:

`python docs/experiments/draw_pages.py RUNS_DIR` with playwright and Chromium on the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

from mtrl.dashboard.report import write_report

DOCS = Path(__file__).resolve().parents[1]
SIZE = {"width": 1280, "height": 1000}


def main(root: Path) -> None:
    """Writes `docs/report.png` and `docs/dashboard.png` from the runs in `root`."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: no Chromium found; install it or name it with CHROMIUM")
    runs = sorted(path.parent for path in root.glob("*/config.yaml"))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder, serving(root) as address:
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page(viewport=SIZE)
        report = Path(folder) / "report.html"
        write_report(runs, report)
        page.goto(report.as_uri())
        page.wait_for_selector(".main-svg")
        page.wait_for_timeout(1000)
        page.screenshot(path=DOCS / "report.png")
        page.goto(address)
        page.wait_for_timeout(500)
        page.screenshot(path=DOCS / "dashboard.png", clip={"x": 0, "y": 0, "width": SIZE["width"], "height": 200 + 40 * len(runs)})


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """The dashboard's address while it serves `root`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "launch.py", "dashboard", str(root), "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
