"""Measurements in a process of their own, so that no measurement warms up or slows down the next one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mtrl.config import ExperimentConfig, dump_yaml
from mtrl.machine import PROJECT_ROOT


def run_in_fresh_process(module: str, config: ExperimentConfig, *arguments: str) -> Any:
    """Runs `python -m MODULE FILE ARGUMENTS...` and returns the value that its last line of output holds as JSON.

    Args:
        module: the module to run, which reads the experiment from FILE.
        config: the experiment.
        arguments: further arguments of the module.

    Raises:
        RuntimeError: the process failed; with the end of its standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        path.write_text(dump_yaml(config))
        command = [sys.executable, "-W", "ignore", "-m", module, str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=False, start_new_session=True)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
