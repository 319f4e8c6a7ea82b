"""What this process may use of its machine, in made-up control groups beside the real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl import machine
from mtrl.benchmark import speed
from mtrl.cli import doctor
from mtrl.cli.commands import evaluate, sweep
from mtrl.machine import available_memory, child_environment, usable_cores, whole_cores

AFFINITY = len(os.sched_getaffinity(0))


def groups(folder: Path, files: dict[str, str], own: str) -> tuple[Path, Path]:
    """A folder of control groups with these files, and the file that says in which groups this process is."""
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(own)
    return folder / "cgroup", folder / "own"


V1 = "4:cpu,cpuacct:/job/step\n3:memory:/job\n2:cpuset:/\n"


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 0.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"cpu.max": "150 100\n", "a/cpu.max": "25 100\n", "a/b/cpu.max": "max 100\n"}, "0::/a/b\n", 0.25),  # the least on the way
        ({"cpu.max": "50 100\n", "other/cpu.max": "25 100\n"}, "0::/\n", 0.5),  # not this process's
        ({"cpu.max": "50 100\n"}, "0::/../../host/slice\n", 0.5),  # as a container sees the host's groups
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, V1, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, V1, None),
        ({"cpu/job/step/cpu.cfs_quota_us": "25\n", "cpu/job/step/cpu.cfs_period_us": "100\n"}, V1, 0.25),
        ({"cpu/other/cpu.cfs_quota_us": "25\n", "cpu/other/cpu.cfs_period_us": "100\n"}, V1, None),
        ({"cpu.max": "10000000 100\n"}, "0::/\n", None),  # more than the affinity
        ({"cpu.max": "nonsense\n"}, "nonsense\n", None),
        ({}, "", None),
    ],
)
def test_cores(tmp_path: Path, files: dict[str, str], own: str, cores: float | None) -> None:
    folders = groups(tmp_path, files, own)
    expected = AFFINITY if cores is None else min(cores, AFFINITY)
    assert usable_cores(*folders) == expected
    assert whole_cores(*folders) == max(1, int(expected)), "a count of processes or threads"


@pytest.mark.parametrize(
    ("files", "own", "left"),
    [
        ({"memory.max": "3000\n", "memory.current": "2000\n"}, "0::/\n", 1000),
        ({"memory.max": "max\n", "memory.current": "2000\n"}, "0::/\n", None),
        ({"memory.max": "9000\n", "memory.current": "1\n", "a/memory.max": "3000\n", "a/memory.current": "2900\n"}, "0::/a\n", 100),
        ({"memory/memory.limit_in_bytes": "3000\n", "memory/memory.usage_in_bytes": "2000\n"}, V1, 1000),
        ({"memory/job/memory.limit_in_bytes": "3000\n", "memory/job/memory.usage_in_bytes": "2500\n"}, V1, 500),
        ({"memory.max": "3000\n", "memory.current": "4000\n"}, "0::/\n", 0),  # the limit was lowered
        ({}, "", None),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], own: str, left: float | None) -> None:
    """None: no group sets a limit, and what the machine has free is left."""
    expected = available_memory(Path("/none"), Path("/none")) if left is None else left
    assert available_memory(*groups(tmp_path, files, own)) == pytest.approx(expected, rel=0.2)


def test_this_machine() -> None:
    assert 0 < usable_cores() <= AFFINITY
    assert 0 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_everybody_counts_in_the_same_way() -> None:
    assert doctor.usable_cores is usable_cores and doctor.available_memory is available_memory
    assert all(module.whole_cores is whole_cores for module in (evaluate, sweep, speed))
    counted = [
        path.relative_to(Path(machine.__file__).parent)
        for path in Path(machine.__file__).parent.rglob("*.py")
        if "sched_getaffinity" in path.read_text()
    ]
    assert counted == [Path("machine.py")]


def test_a_child_imports_this_projects_code_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `mtrl` that PYTHONPATH names first in this process must not hide ours in the child."""
    (tmp_path / "mtrl.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-c", "import mtrl, os; print(mtrl.__file__, os.environ['MTRL_CHILD'])"]
    output = subprocess.run(command, env=child_environment(MTRL_CHILD="7"), cwd="/", capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(Path(machine.__file__).parent / "__init__.py"), "7"]


def test_only_the_machines_module_counts_the_folders_above_a_file() -> None:
    folder = Path(machine.__file__).parent
    assert [path.name for path in folder.rglob("*.py") if ".parents[" in path.read_text()] == []
