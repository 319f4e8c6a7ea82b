"""What is seldom needed is imported at its first use, and works as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from envs.deferred_imports import defer

ROOT = Path(__file__).parents[1]


def run(code: str) -> None:
    """Runs code in a process of its own, where nothing has been imported."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_start_on_minigrid_imports_no_plots_no_graphs_and_no_special_functions():
    run("""
import sys
from envs import make_suite, make_vector
suite = make_suite("minigrid/mt3")
make_vector(suite, [1, 1, 1]).close()
import mtrl.training.trainer
known = {"matplotlib", "networkx.classes", "scipy.special", "envpool.jumanji.jumanji_envpool"} & set(sys.modules)
assert not known, known
assert "envpool.registration" in sys.modules and "minigrid.envs.wfc" in sys.modules
""")


def test_what_was_deferred_works_as_ever():
    pytest.importorskip("networkx")
    run("""
import sys
from envs import make_suite, make_vector
suite = make_suite("minigrid/mt3")
suite.tasks[0].make_env()


import networkx.algorithms, networkx
assert networkx.complete_graph(4).size() == 6 and networkx is sys.modules["networkx"]
problems = make_vector(make_suite("jumanji/Maze"), 2)
problems.reset()
problems.close()
import envpool.jumanji
assert envpool.jumanji is sys.modules["envpool.jumanji"] and hasattr(envpool.jumanji, "__file__")
""")


def test_threads_read_a_deferred_module_once(tmp_path, monkeypatch):
    run(f"""
import sys, threading
sys.path.insert(0, {str(tmp_path)!r})
open({str(tmp_path / "slow.py")!r}, "w").write("import time; time.sleep(0.3); value = object()")
from envs.deferred_imports import defer
defer("slow")
import slow
seen = []
threads = [threading.Thread(target=lambda: seen.append(slow.value)) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(seen) == 8 and len(set(map(id, seen))) == 1
""")


def test_what_is_not_installed_or_imported_already_is_left_alone():
    json = sys.modules["json"]
    for name in ("json", "json.decoder", "no_such_package", "no_such_package.part"):
        defer(name)
    assert sys.modules["json"] is json and not [name for name in sys.modules if name.startswith("no_such_package")]
