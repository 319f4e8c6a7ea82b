"""Measurements in a process of their own, so that no measurement warms up or slows down the next one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mtrl.benchmark.processes import kill_family
from mtrl.config import ExperimentConfig, dump_yaml
from mtrl.machine import PROJECT_ROOT

LONGEST_SECONDS = 4 * 3600.0  # of a measurement, so that one that hangs does not keep the others waiting


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
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, start_new_session=True
        )
        try:
            output, errors = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{module} {' '.join(arguments)} has not ended within {LONGEST_SECONDS / 3600:.0f} hours") from None
        finally:
            if process.poll() is None:
                kill_family(process)
    if process.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{errors[-3000:]}")
    return json.loads(output.strip().splitlines()[-1])
