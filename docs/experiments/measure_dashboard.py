"""The dashboard with many long runs: `python docs/experiments/measure_dashboard.py [RUNS] [TASKS] [MEGABYTES]`, by default 200, 50 and 20.

Writes the runs into a temporary folder (4 GB), starts the command, and prints how long pages take and how much memory the server has.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from mtrl.config import ExperimentConfig, dump_yaml
from mtrl.config.seal import sealed
from mtrl.dashboard.report import write_report

PAGES = 200  # of single runs, which are opened
KINDS = ("return", "score", "success_rate", "episode_length", "episodes", "frames", "value_error", "share_wanted", "share_trained")
KINDS = (*KINDS, "forgotten", "policy_lag")


def write_run(path: Path, tasks: int, megabytes: int, run: int) -> None:
    """Metrics of the given size, an evaluation with 50 episodes of each task, and a configuration."""
    names = [f"task-{task:02}" for task in range(tasks)]
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(sealed(dump_yaml(ExperimentConfig(name="experiment", seed=run))))
    (path / "versions.json").write_text("{}")
    row = {f"tasks/{name}/{kind}": 0.123456789012345 + run for name in names for kind in KINDS}
    size = len(json.dumps(row))
    with (path / "metrics.jsonl").open("w") as file:
        for line in range(megabytes * 10**6 // size):
            head = {"time": 1e9 + 10.0 * line, "summary/frames": 1000 * line, "summary/score_mean": line / 1000}
            head |= {"summary/frames_per_second": 1000.0}
            file.write(json.dumps(head)[:-1] + ", " + json.dumps(row)[1:] + "\n")
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    figures = {"n": 50, "successes": 25, "success_rate": interval, "score": interval, "return_mean": 1.0, "length_mean": 500.0}
    episode = {"task_id": 0, "slot": 0, "episode_return": 1.23456, "length": 500, "success": True, "score": 1.0}
    results = {
        "protocol": "metaworld-50-v1",
        "changed": {},
        "step": 1000,
        "backend": "gymnasium",
        "sampled_actions": False,
        "score_mean": interval,
        "tasks": dict.fromkeys(names, figures),
        "episodes": [episode] * (50 * tasks),
    }
    (path / "evaluation" / "1000").mkdir(parents=True)
    (path / "evaluation" / "1000" / "results.json").write_text(json.dumps(results, indent=1))


def seconds(address: str) -> float:
    """How long an answer takes."""
    start = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        answer.read()
    return time.perf_counter() - start


def measure(runs: int, tasks: int, megabytes: int) -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            write_run(Path(folder) / f"run-{run:03}", tasks, megabytes, run)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        with chromium() as page:
            process = subprocess.Popen([sys.executable, "launch.py", "dashboard", folder, "--port", str(port)], stdout=subprocess.PIPE)
            started = time.perf_counter()
            while time.perf_counter() - started < 60:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
            answered, (shown, complete) = time.perf_counter() - started, listing(page, address)
            print(f"the port answers after {answered:.2f} s; in Chromium, at once then:")
            print(f"the newest runs {shown:.2f} s, all of them {complete:.2f} s")
            again, filtered = listing(page, address)[1], filtering(page)
            print(f"the list again {again:.2f} s, a filter {filtered:.2f} s; the list without Chromium {seconds(address):.2f} s")
        for name in ("run-000", "run-001"):
            page = seconds(f"{address}/run/{name}")
            print(f"page of {name}: {page:.2f} s, its figures {seconds(f'{address}/api/figures?run={name}'):.2f} s")
        for run in range(min(runs, PAGES)):
            seconds(f"{address}/run/run-{run:03}")
        ten = "&".join(f"run=run-{run:03}" for run in range(10))
        print(f"ten runs compared: {seconds(f'{address}/compare?{ten}') + seconds(f'{address}/api/figures?{ten}'):.2f} s")
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        print(f"memory after the pages of {min(runs, PAGES)} runs were opened, at its highest: {int(peak.split()[1]) / 2**20:.2f} GiB")
        process.terminate()
        process.wait()
        print(f"report of twenty runs, from its address to its first figures: {opening(Path(folder), 20):.2f} s")


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """An empty page."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]).new_page()


def listing(page: Page, address: str) -> tuple[float, float]:
    """How long it takes until the table has rows, and until it has one of each run."""
    start = time.perf_counter()
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("#rows tr")
    shown = time.perf_counter() - start
    page.wait_for_selector("#summary[data-unread='0']")
    return shown, time.perf_counter() - start


def filtering(page: Page) -> float:
    """How long the table takes to be filtered by a field that is no column."""
    script = """async () => {
        const filter = document.getElementById("filter"), start = performance.now();
        filter.value = "name:experiment seed<100";
        await runs.show();
        document.body.offsetHeight;
        return performance.now() - start;
    }"""
    return page.evaluate(script) / 1000


def opening(root: Path, runs: int) -> float:
    """How long Chromium takes to load a report of the first runs, scroll to its first figures and draw them; the best of three."""
    report = root / "report.html"
    write_report(sorted(root.glob("run-*"))[:runs], report)
    times = []
    with chromium() as page:
        for _ in range(3):
            start = time.perf_counter()
            page.goto(report.as_uri())
            page.evaluate("() => document.querySelector('.plot').scrollIntoView()")
            page.wait_for_selector(".plot .main-svg")
            times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    measure(*(int(argument) for argument in (*sys.argv[1:], *(200, 50, 20)[len(sys.argv) - 1 :])))
