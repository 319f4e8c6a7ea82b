"""Files that are replaced: whole after every end of the process, and recognized when they are not what was written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import toy_config
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl.cli import main
from mtrl.config import ConfigError, DamagedFileError, check_seal, dump_yaml, load_config, sealed
from mtrl.dashboard.runs import read_run
from mtrl.storage.run_directory import RunDirectory, RunDirectoryError, read_config
from mtrl.storage.sealed import TEMPORARY, replace_text, replacing

ROOT = Path(__file__).parents[1]
CONFIG = toy_config(total_frames=600)
TEXT = sealed(dump_yaml(CONFIG))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "toy"
    assert main(["train", "toy", "--run-dir", str(directory), "--total-frames", "600", "--report-seconds", "60"]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy", symlinks=True))


def test_what_is_sealed_is_still_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(TEXT)
    assert load_config(tmp_path / "config.yaml") == CONFIG
    assert yaml.safe_load(TEXT) == yaml.safe_load(dump_yaml(CONFIG)), "the seal is comments"
    check_seal(dump_yaml(CONFIG), tmp_path)  # an older run's


@given(st.integers(1, len(TEXT) - 1))
@settings(max_examples=300, deadline=None)
def test_every_part_is_refused(length: int) -> None:
    for part in (TEXT[:length], TEXT[length:]) if length > 64 else (TEXT[:length],):
        if "# s" in part:  # else it ends within the last line's hash, and is no YAML
            with pytest.raises(DamagedFileError):
                check_seal(part, Path("config.yaml"))


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii"))
@settings(max_examples=300, deadline=None)
def test_every_change_of_a_character_is_refused(place: int, character: str) -> None:
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(DamagedFileError, match=r"config\.yaml is damaged or was changed: .* delete its first line"):
            check_seal(changed, Path("config.yaml"))


def cut(path: Path) -> None:
    """Between two lines, so that it still is an experiment."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def emptied(path: Path) -> None:
    path.write_text("")


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("total_frames: 600", "total_frames: 1200"))


@pytest.mark.parametrize("damage", [cut, emptied, edited])
@pytest.mark.parametrize("command", [["train", "--resume"], ["train", "--auto-resume", "--run-dir"], ["evaluate"], ["export"], ["explain"]])
def test_a_run_with_another_config_is_refused_by_every_command(
    run: Path, damage: Callable[[Path], None], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "config.yaml")
    before = (run / "config.yaml").read_text()
    assert main([*command, str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {run}/config.yaml is ") and err.count("\n") == 1
    assert (run / "config.yaml").read_text() == before, "evidence stays"


def test_the_dashboard_names_a_damaged_config(run: Path) -> None:
    assert not any("config.yaml" in problem for problem in read_run(run).problems)
    edited(run / "config.yaml")
    assert "config.yaml is damaged or was changed since it was written" in read_run(run).problems


def test_a_person_who_edits_it_can_say_so(run: Path) -> None:
    """What the message says, done: without its two lines the file is accepted, and it is sealed again by the next resumption."""
    edited(run / "config.yaml")
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    for half in (lines[1:], lines[:-1]):
        (run / "config.yaml").write_text("".join(half))
        with pytest.raises(ConfigError):
            read_config(run)
    (run / "config.yaml").write_text("".join(lines[1:-1]))
    assert read_config(run).total_frames == 1200
    assert main(["train", "--resume", str(run)]) == 0
    text = (run / "config.yaml").read_text()
    assert text == sealed(dump_yaml(read_config(run)))
    with pytest.raises(DamagedFileError):
        check_seal(text.replace("1200", "1300"), run)


def test_a_run_that_never_got_its_config_can_begin(tmp_path: Path) -> None:
    """A process was killed while it wrote the first file; another one's file is not touched."""
    (tmp_path / f"{TEMPORARY}config.yaml-0").write_text("na")
    assert RunDirectory.open(RunDirectory.create(tmp_path, CONFIG).path).config == CONFIG
    with pytest.raises(RunDirectoryError, match="not an empty folder"):
        RunDirectory.create(tmp_path, CONFIG)


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"ne")
        raise RuntimeError
    assert path.read_text() == "old"
    with pytest.raises(OSError):
        replace_text(tmp_path / "none" / "file", "new")
    replace_text(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    os.umask(mask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_content_is_on_the_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure leaves the new name on an empty file."""
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        order.append(f"renamed to {Path(target).name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    directory = RunDirectory.create(tmp_path / "run", CONFIG)
    directory.write_config()
    directory.truncate_after(0)
    names = ["config.yaml", "versions.json", "config.yaml", "metrics.jsonl", "curriculum.jsonl"]
    assert [entry for entry in order if entry.startswith("renamed")] == [f"renamed to {name}" for name in names]
    for place in (index for index, entry in enumerate(order) if entry.startswith("renamed")):
        assert order[place - 1].startswith(TEMPORARY) and order[place + 1] == "run"


def test_a_process_killed_while_it_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mtrl.config import sealed; from mtrl.storage.sealed import *\n"
        "for number in range(10**6): replace_text(Path(sys.argv[1]) / 'file', sealed(f'{number}\\n' * 200_000))"
    )
    seen = set()
    for wait in (0.0, 0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
        while not (tmp_path / "file").exists():
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = (tmp_path / "file").read_text()
        check_seal(text, tmp_path / "file")
        seen.add(len(set(text.splitlines()[1:-1])))
        (tmp_path / "file").unlink()
    assert seen == {1}
