"""Checkpoints: what was saved comes back, and what is damaged is noticed."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fingerprint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl.storage.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    load_checkpoint,
    load_policy,
    newest_valid,
    resolve,
    save_checkpoint,
    save_policy,
    steps,
)

ROOT = Path(__file__).parent.parent
TREE = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(True)},
    "state": {0: {"step": torch.tensor(3)}, 1: [1, 2.5, float("inf"), None, "x", True, 2**200]},
    "arrays": [np.arange(3, dtype=np.uint64) + 2**63, np.array([[np.nan, 1]]), np.zeros((0, 2), np.int8)],
    "bytes": b"\x00\xff",
    "empty": {},
}


def save(root: Path, step: int, **options) -> Path:
    settings = {"tasks": ("one", "two"), "keep": 3} | options
    return save_checkpoint(root, step, {"learner": TREE, "other": {"step": step}}, **settings)


def test_trees_come_back_as_they_were(tmp_path):
    loaded = load_checkpoint(save(tmp_path, 5, score=0.5))
    assert fingerprint(loaded.components["learner"]) == fingerprint(TREE)
    assert loaded.manifest == (5, ("one", "two"), 0.5)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_any_tree_comes_back(tmp_path, tree):
    assert load_checkpoint(save_checkpoint(tmp_path, 1, {"x": tree}, tasks=(), keep=1)).components["x"] == tree


def test_every_flipped_byte_cut_and_missing_file_is_noticed(tmp_path):
    save(tmp_path, 1)
    whole = save(tmp_path, 2)
    rng = np.random.default_rng(0)
    for file in sorted(whole.iterdir()):
        content = file.read_bytes()
        places = range(len(content)) if len(content) < 700 else rng.choice(len(content), 300, replace=False)
        damages = [content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :] for place in places]
        for damaged in [*damages, content[:-1], b"", content + b"x"]:
            file.write_bytes(damaged)
            with pytest.raises(DamagedCheckpointError, match="damaged"):
                load_checkpoint(whole)
        file.unlink()
        loaded, problems = newest_valid(tmp_path)
        assert loaded is not None
        assert loaded.manifest.step == 1
        assert len(problems) == 1
        assert str(whole) in problems[0]
        file.write_bytes(content)
    assert load_checkpoint(whole).manifest.step == 2


def test_the_newest_and_the_best_stay(tmp_path):
    for step, score in enumerate([0.1, 0.9, 0.2, None, 0.3, 0.4], 1):
        save(tmp_path, step, score=score)
    assert steps(tmp_path) == [2, 4, 5, 6]
    assert resolve(tmp_path, "latest").name == "6"
    assert resolve(tmp_path, "best").name == "2"
    assert resolve(tmp_path, "4").name == "4"
    with pytest.raises(CheckpointError, match="there are 2, 4, 5, 6"):
        resolve(tmp_path, "3")
    with pytest.raises(CheckpointError, match="not 'newest'"):
        resolve(tmp_path, "newest")


def test_the_same_step_can_be_saved_again(tmp_path):
    save(tmp_path, 1)
    assert load_checkpoint(save(tmp_path, 1)).manifest.step == 1


@pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX")
def test_a_disk_that_is_full_loses_nothing(tmp_path):
    save(tmp_path, 1)
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from mtrl.storage.checkpoint import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save_checkpoint(Path(sys.argv[1]), 2, {'x': torch.zeros(100_000)}, tasks=(), keep=1)\n"
        "except CheckpointError as error: print(error)"
    )
    assert resource.RLIMIT_FSIZE is not None
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.startswith("cannot save")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "latest"]
    assert newest_valid(tmp_path)[0].manifest.step == 1


def test_a_process_killed_while_it_saves_loses_nothing(tmp_path, monkeypatch):
    code = (
        "import sys, torch; from pathlib import Path; from mtrl.storage.checkpoint import *\n"
        "for step in range(1, 10_000): save_checkpoint(Path(sys.argv[1]), step, {'x': torch.rand(300_000)}, tasks=(), keep=2)"
    )
    rng = np.random.default_rng(0)
    newest = 0
    for _ in range(4):
        shutil.rmtree(tmp_path)
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
        while not steps(tmp_path):
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        loaded, problems = newest_valid(tmp_path)
        assert loaded is not None
        assert problems == []
        newest = max(newest, loaded.manifest.step)
    assert newest > 1
    monkeypatch.setattr("mtrl.storage.checkpoint.LEFT_SECONDS", -1.0)
    save(tmp_path, 100_000)
    assert not list(tmp_path.glob(".incomplete-*"))


def test_files_and_folders_that_killed_processes_have_left_are_removed(tmp_path):
    """What is young may be another process's that writes at this moment."""
    save(tmp_path, 1)
    file, folder, young = (tmp_path / f".incomplete-{name}" for name in ("latest-0", "0", "latest-1"))
    file.write_text("1")
    folder.mkdir()
    (folder / "manifest.json").write_text("{")
    for entry in (file, folder):
        os.utime(entry, (0, 0))
    young.write_text("2")
    save(tmp_path, 2)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".incomplete-")] == [young.name]


def test_a_policy_loads_without_pickle_and_without_ray(tmp_path):
    weights = {"w": np.arange(4, dtype=np.float32)}
    path = save_policy(tmp_path, 3, weights, {"suite": "toy/three"}, keep=[3])
    loaded, description = load_policy(path)
    assert torch.equal(loaded["w"], torch.arange(4.0))
    assert description["suite"] == "toy/three"
    code = (
        "import pickle, sys\n"
        "def refuse(*a, **k): raise RuntimeError('unpickled')\n"
        "import torch, mtrl.storage.checkpoint; from pathlib import Path\n"
        "pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse\n"
        "mtrl.storage.checkpoint.load_policy(Path(sys.argv[1])); print('ray' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"
    (path / "weights.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(DamagedCheckpointError, match="weights.safetensors has changed".replace(".", r"\.")):
        load_policy(path)


@pytest.mark.parametrize("array", [np.array(3), np.array([3]), np.array(True), np.zeros((0, 2)), np.arange(6.0).reshape(2, 3).T])
def test_arrays_come_back_in_their_shape(tmp_path: Path, array: np.ndarray) -> None:
    path = save_checkpoint(tmp_path, 1, {"part": {"array": array}}, tasks=["x"], keep=1)
    again = load_checkpoint(path).components["part"]["array"]
    assert again.shape == array.shape and again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


def test_a_process_killed_while_it_removes_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by docs/experiments/measure_kills.py: an old checkpoint without its manifest."""

    def killed(folder: Path, ignore_errors: bool) -> None:
        if Path(folder).exists():
            (Path(folder) / "manifest.json").unlink()
            raise KeyboardInterrupt

    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"a": {"x": torch.ones(3)}}, tasks=("t",), keep=2)
    monkeypatch.setattr("mtrl.storage.checkpoint.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 3, {"a": {"x": torch.ones(3)}}, tasks=("t",), keep=2)
    monkeypatch.undo()
    assert steps(tmp_path) == [2, 3]
    assert all(load_checkpoint(tmp_path / str(step)).manifest.step == step for step in (2, 3))
    monkeypatch.setattr("mtrl.storage.checkpoint.LEFT_SECONDS", -1.0)
    save_checkpoint(tmp_path, 4, {"a": {"x": torch.ones(3)}}, tasks=("t",), keep=2)
    assert not list(tmp_path.glob(".incomplete-*"))
