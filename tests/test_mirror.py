"""Checkpoints that are copied to another file system, and a run that goes on from them on a new machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from helpers import Silent, fingerprint, toy_config

from mtrl.config import ConfigError
from mtrl.distributed.trials import with_own_copies
from mtrl.errors import UserError
from mtrl.runs import begin
from mtrl.storage import mirror as mirror_module
from mtrl.storage.checkpoint import load_checkpoint, resolve, save_checkpoint, steps
from mtrl.storage.mirror import Mirror, fetch, holds_copy

ROOT = Path(__file__).parent.parent
OPTIONS = ("--num-env-runners=0", "--total-frames=2000", "--report-seconds=0.1", "--checkpoints.every-seconds=0.05")


def launch(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONUNBUFFERED": "1"})


def saved_run(run: Path, *frames: int) -> Path:
    for step in frames:
        save_checkpoint(run / "checkpoints", step, {"learner": {"weights": [step]}}, tasks=("a",), keep=9)
    (run / "config.yaml").write_text("name: it\n")
    return run


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    yield f"file://{tmp_path}/far/run" if request.param == "file" else "memory://bucket/run"
    fsspec.filesystem("memory").store.clear()


def test_copies_come_back_whole_and_the_oldest_are_removed(url, tmp_path):
    mirror = Mirror(url, keep=2)
    for step in (10, 20, 30):
        mirror.offer(saved_run(tmp_path / "run", step))
        assert mirror.finish(60) is None
    assert fetch(url, tmp_path / "new")
    assert steps(tmp_path / "new" / "checkpoints") == [30]
    assert (tmp_path / "new" / "config.yaml").read_text() == "name: it\n"
    here, there = (load_checkpoint(tmp_path / run / "checkpoints" / "30").components for run in ("run", "new"))
    assert fingerprint(here) == fingerprint(there)
    files, root = fsspec.core.url_to_fs(url)
    assert sorted(Path(path).name for path in files.ls(f"{root}/checkpoints", detail=False)) == ["20", "30"]


def test_what_is_damaged_or_unfinished_over_there_is_passed_over(url, tmp_path):
    mirror = Mirror(url, keep=9)
    for step in (10, 20, 30):
        mirror.offer(saved_run(tmp_path / "run", step))
        mirror.finish(60)
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/checkpoints/30/manifest.json")  # as a copy that was broken off leaves it
    with files.open(f"{root}/checkpoints/20/learner.json", "wb") as file:
        file.write(b"{}")
    assert fetch(url, tmp_path / "new")
    assert steps(tmp_path / "new" / "checkpoints") == [10]

    files.rm(f"{root}/checkpoints/10", recursive=True)
    assert not fetch(url, tmp_path / "newer")
    assert not (tmp_path / "newer").exists()  # so that a run can begin there


def test_a_connection_that_breaks_leaves_nothing_behind(tmp_path, monkeypatch):
    """After the first of a checkpoint's files: the next start must not find half a run."""
    url = f"file://{tmp_path}/far/run"
    mirror = Mirror(url, keep=2)
    mirror.offer(saved_run(tmp_path / "run", 10))
    mirror.finish(60)
    local, calls = fsspec.filesystem("file"), []
    whole = type(local).get_file

    def breaks(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError("connection reset by peer")
        return whole(self, *arguments, **options)

    monkeypatch.setattr(type(local), "get_file", breaks)
    with pytest.raises(ConfigError, match="connection reset by peer"):
        fetch(url, tmp_path / "new")
    assert len(calls) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "run"]


def test_a_place_that_refuses_is_a_sentence(tmp_path):
    (tmp_path / "far").write_text("a file, where a folder is needed")
    mirror = Mirror(f"file://{tmp_path}/far/run", keep=2)
    mirror.offer(saved_run(tmp_path / "run", 10))
    problem = mirror.finish(60)
    assert problem is not None and problem.startswith(f"cannot copy the checkpoint to file://{tmp_path}/far/run: ")
    assert mirror.poll() is None
    with pytest.raises(ConfigError, match=r"checkpoints.copy_to: cannot open nosuch://x: Protocol not known: nosuch"):
        Mirror("nosuch://x", keep=2)


@pytest.fixture
def silent_server():
    """The address of a server that takes connections and says nothing, as file servers do that hang."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"webhdfs://127.0.0.1:{server.getsockname()[1]}/run"


def test_a_server_that_is_silent_is_not_waited_for_without_end(silent_server, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_module, "ANSWER_SECONDS", 3.0)
    told = []
    with pytest.raises(ConfigError, match=rf"cannot read {silent_server}: no answer within 3 s"):
        fetch(silent_server, tmp_path / "new", told.append)
    assert told == [f"reading {silent_server}; waiting up to 3 s for an answer"]


def test_a_copy_that_hangs_is_said_once_and_given_up(silent_server, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_module, "SLOW_SECONDS", 0.5)
    mirror = Mirror(silent_server, keep=2)
    run = saved_run(tmp_path / "run", 10)
    mirror.offer(run)
    assert mirror.poll() is None
    time.sleep(1.0)
    assert re.fullmatch(rf"the copy of the checkpoint to {silent_server} has not ended after 1 s; newer .* wait for it", mirror.poll())
    mirror.offer(run)
    assert mirror.poll() is None
    mirror.offer(run)
    before = time.monotonic()
    mirror.finish(0.5)
    assert time.monotonic() - before < 1.0


def test_a_signal_ends_a_run_although_its_copy_hangs(silent_server, tmp_path):
    """The system gives a run a few seconds to end, and the checkpoint here is what matters."""
    run = tmp_path / "run"
    options = ("--run-dir", run, "--checkpoints.copy-to", silent_server, *OPTIONS, "--total-frames=1000000000")
    command = [sys.executable, str(ROOT / "launch.py"), "train", "toy", *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not steps(run / "checkpoints") and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            before = time.monotonic()
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert time.monotonic() - before < 5.0, output
    assert process.returncode == 143 and "it is given up" in output, output
    assert steps(run / "checkpoints")


def test_a_run_goes_on_where_its_disk_was_lost(tmp_path):
    run, url = tmp_path / "run", f"file://{tmp_path}/far"
    arguments = ("train", "toy", "--run-dir", run, "--auto-resume", "--checkpoints.copy-to", url, *OPTIONS)
    first = launch(*arguments)
    assert first.returncode == 0, first.stderr
    frames = int(resolve(run / "checkpoints", "latest").name)
    shutil.rmtree(run)
    second = launch(*arguments, "--total-frames=4000")
    assert second.returncode == 0, second.stderr
    assert f"resumed {run}/checkpoints/{frames} at {frames:,} frames" in second.stdout
    metrics = (run / "metrics.jsonl").read_text()
    assert f'"summary/frames": {float(frames)}' in metrics or f'"summary/frames": {frames}' in metrics  # the first run's curve goes on
    shutil.rmtree(tmp_path / "far")
    (tmp_path / "far").write_text("no longer a folder")
    third = launch(*arguments, "--total-frames=5000")
    assert third.returncode == 0 and "warning: cannot copy the checkpoint to file://" in third.stdout


def test_several_runs_have_copies_of_their_own(tmp_path):
    """Of a sweep, and of another run with the same experiment, which is refused."""
    config = toy_config(checkpoints__copy_to="s3://bucket/all/")
    assert with_own_copies(config, "seed-1").checkpoints.copy_to == "s3://bucket/all/seed-1"
    assert with_own_copies(toy_config(), "seed-1") == toy_config()
    url = f"file://{tmp_path}/far"
    mirror = Mirror(url, keep=2)
    mirror.offer(saved_run(tmp_path / "run", 10))
    assert mirror.finish(60) is None
    with pytest.raises(UserError, match="holds another run"):
        begin(toy_config(checkpoints__copy_to=url), tmp_path / "other", Silent())
    assert not (tmp_path / "other").exists()
    assert not holds_copy(f"file://{tmp_path}/nothing")


def test_a_checkpoint_that_is_being_copied_stays(tmp_path, monkeypatch):
    """A slow file system would else never get a whole one."""
    url, begun, go_on = f"file://{tmp_path}/far", threading.Event(), threading.Event()
    mirror = Mirror(url, keep=1)
    put = mirror._files.put_file

    def slowly(*given):
        begun.set()
        assert go_on.wait(30)
        put(*given)

    monkeypatch.setattr(mirror._files, "put_file", slowly)
    mirror.offer(saved_run(tmp_path / "run", 10))
    assert begun.wait(30) and mirror.copying == 10
    for step in (20, 30):
        save_checkpoint(tmp_path / "run" / "checkpoints", step, {"a": {}}, tasks=("a",), keep=1, protected=(mirror.copying,))
    go_on.set()
    assert mirror.finish(30) is None and mirror.copying is None
    assert fetch(url, tmp_path / "new") and steps(tmp_path / "new" / "checkpoints") == [10]


def test_what_a_killed_process_has_fetched_is_fetched_again(tmp_path):
    """It had the checkpoint and not yet the experiment, without which the folder is no run."""
    url = f"file://{tmp_path}/far"
    mirror = Mirror(url, keep=2)
    mirror.offer(saved_run(tmp_path / "run", 10))
    assert mirror.finish(60) is None
    (tmp_path / "new" / "checkpoints" / "10").mkdir(parents=True)
    (tmp_path / "new" / "checkpoints" / "10" / "manifest.json").write_text("")
    assert fetch(url, tmp_path / "new") and (tmp_path / "new" / "config.yaml").exists()
    load_checkpoint(tmp_path / "new" / "checkpoints" / "10")
