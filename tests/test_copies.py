"""Copies of runs: by scp, by zip, without links, of both versions of the layout, and what is said of files that cannot be read."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mtrl.cli.dispatch import main
from mtrl.config import ExperimentConfig
from mtrl.errors import UserError
from mtrl.storage.checkpoint import UnreadableCheckpointError, mark_best, named_step, newest_valid, resolve, save_checkpoint
from mtrl.storage.run_directory import RunDirectory, new_folder

ROOT = Path(__file__).parents[1]
FORMER = Path(__file__).parent / "data" / "run_v1"


@pytest.fixture(scope="module")
def present(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "present"
    assert main(["train", "toy", "--run-dir", str(run), "--total-frames", "600"]) == 0
    return run


def by_scp(run: Path, copy: Path) -> None:
    """Links become folders, as by `scp -r` and `cp -rL`."""
    shutil.copytree(run, copy, symlinks=False, ignore_dangling_symlinks=True)


def by_zip(run: Path, copy: Path) -> None:
    """Without links, modes, times and empty folders."""
    archive = copy.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in run.rglob("*"):
            if path.is_file() and not any(parent.is_symlink() for parent in (path, *path.parents)):
                file.write(path, path.relative_to(run))
    with zipfile.ZipFile(archive) as file:
        file.extractall(copy)


def policy_alone(run: Path, copy: Path) -> None:
    """What is needed to play."""
    copy.mkdir()
    shutil.copy(run / "config.yaml", copy)
    shutil.copytree(run / "policy", copy / "policy")


@pytest.mark.parametrize("layout", ["present", "former"])
@pytest.mark.parametrize("how", [by_scp, by_zip, policy_alone])
def test_a_copy_plays_reports_exports_and_goes_on(layout, how, present, tmp_path, capsys):
    run, copy = present if layout == "present" else FORMER, tmp_path / "copy"
    how(run, copy)
    assert main(["evaluate", str(copy), "--episodes", "2", "--workers", "1"]) == 0
    assert main(["export", str(copy), "--format", "pt2"]) == 0
    assert main(["report", str(copy), "-o", str(tmp_path / "page.html")]) == 0
    if how is policy_alone:
        return
    frames = newest_valid(copy / "checkpoints")[0].manifest.step
    capsys.readouterr()
    assert main(["train", "--resume", str(copy), "--total-frames", str(frames + 300)]) == 0
    assert "warning" not in capsys.readouterr().out
    newest = named_step(copy / "checkpoints", "latest")
    assert newest > frames and (copy / "checkpoints" / "latest").read_text() == f"{newest}\n"
    assert (copy / "policy" / str(newest)).is_dir()


def test_no_link_is_needed(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError("no links here")

    for name in ("symlink", "link"):
        monkeypatch.setattr(os, name, refused)
    run = tmp_path / "run"
    assert main(["train", "toy", "--run-dir", str(run), "--total-frames", "300"]) == 0
    assert main(["evaluate", str(run), "--episodes", "2", "--workers", "1"]) == 0


@pytest.mark.parametrize("kind", ["link", "folder", "file", "nothing", "cut off"])
def test_whatever_names_the_newest_is_read_and_replaced(kind, tmp_path):
    for step in (5, 9):
        save_checkpoint(tmp_path, step, {"a": 1}, tasks=["x"], keep=3, score=1.0 - step / 10)
    best = tmp_path / "best"
    assert named_step(tmp_path, "latest") == 9 and named_step(tmp_path, "best") == 5
    if kind != "file":
        best.unlink()
    if kind == "link":
        best.symlink_to("5")
    elif kind == "folder":
        shutil.copytree(tmp_path / "5", best)
    elif kind == "cut off":
        best.write_text("")
    assert named_step(tmp_path, "best") == (5 if kind in ("link", "folder", "file") else None)
    mark_best(tmp_path, 9)
    assert best.is_file() and not best.is_symlink() and resolve(tmp_path, "best") == tmp_path / "9"
    (tmp_path / "latest").unlink()
    assert resolve(tmp_path, "latest") == tmp_path / "9"


def test_what_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    for step in (5, 9):
        save_checkpoint(tmp_path, step, {"a": 1}, tasks=["x"], keep=3)
    read = Path.read_bytes

    def refused(self: Path) -> bytes:
        if "9" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UnreadableCheckpointError, match=r"9 cannot be read: manifest.json: Permission denied$"):
        newest_valid(tmp_path)
    monkeypatch.undo()
    (tmp_path / "9" / "a.json").unlink()
    loaded, (problem,) = newest_valid(tmp_path)
    assert loaded.path.name == "5" and problem.endswith("9 is damaged: a.json is missing")


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_colleagues_may_read_what_the_umask_lets_them(mask, tmp_path):
    before = os.umask(mask)
    try:
        save_checkpoint(tmp_path / "checkpoints", 5, {"a": 1}, tasks=["x"], keep=3, score=1.0)
        RunDirectory.create(tmp_path / "run", ExperimentConfig())
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def _claim(folder: str, barrier: multiprocessing.Barrier, queue: multiprocessing.Queue) -> None:
    os.chdir(folder)
    barrier.wait()
    queue.put([str(new_folder(None, "toy")) for _ in range(20)])


def test_runs_that_begin_in_the_same_second_get_folders_of_their_own(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_claim, args=(str(tmp_path), barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    claimed = [name for _ in processes for name in queue.get(timeout=60)]
    for process in processes:
        process.join()
    assert len(set(claimed)) == 60


def test_a_folder_with_something_in_it_is_nobodys_run(tmp_path):
    (tmp_path / "lock").write_text("")
    assert new_folder(tmp_path, "toy") == tmp_path
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="is not an empty folder"):
        new_folder(tmp_path, "toy")


def test_a_run_that_cannot_be_written_to_is_evaluated(present, tmp_path):
    """A colleague's, or one on a file system that is mounted read-only."""
    run = tmp_path / "run"
    by_scp(present, run)
    command = [sys.executable, str(ROOT / "launch.py"), "evaluate", str(run), "--episodes", "2", "--workers", "1"]
    if os.geteuid() == 0:  # who may write everywhere but there
        mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
        if subprocess.run(["unshare", "-m", "sh", "-c", mount, str(run)], capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', str(run), *command]
    else:
        run.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "mean score" in said and f"the results are not saved: {run} cannot be written to" in said
    assert not (run / "evaluation").exists()
