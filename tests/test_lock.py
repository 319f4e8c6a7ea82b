"""A run's directory belongs to one training at a time, for as long as that one lives."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrl.storage.layout import RunLayout
from mtrl.storage.lock import run_lock
from mtrl.storage.run_directory import RunDirectoryError

HOLD = """
import sys, time
from pathlib import Path
from mtrl.storage.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(RunDirectoryError, match=f"is being trained by process {holder.pid} of"), run_lock(tmp_path):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with run_lock(tmp_path):
        pass


def test_patience_ends_when_the_holder_shows_a_sign_of_life(tmp_path: Path) -> None:
    said: list[str] = []

    def report(message: str) -> None:
        said.append(message)
        (tmp_path / "metrics.jsonl").write_text("{}")

    began = time.monotonic()
    with run_lock(tmp_path), pytest.raises(RunDirectoryError, match="is being trained"), run_lock(tmp_path, patience=60, tell=report):
        pass
    assert time.monotonic() - began < 30 and len(said) == 1


def test_a_lock_without_signs_of_life_is_a_lost_machines(tmp_path: Path) -> None:
    said: list[str] = []
    with run_lock(tmp_path), run_lock(tmp_path, patience=0.2, tell=said.append):
        pass
    assert "waiting up to" in said[0] and "taken for lost" in said[1]


def test_patience_ends_when_the_holder_does(tmp_path: Path) -> None:
    first, said, begin = run_lock(tmp_path), list[str](), time.monotonic()
    first.__enter__()

    def tell(message: str) -> None:
        said.append(message)
        first.__exit__(None, None, None)

    with run_lock(tmp_path, patience=60, tell=tell):
        assert len(said) == 1 and "waiting up to 60 s" in said[0] and time.monotonic() - begin < 10


def test_a_directory_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    RunLayout(tmp_path).lock.mkdir()
    with pytest.raises(RunDirectoryError, match="cannot write to"), run_lock(tmp_path):
        pass
