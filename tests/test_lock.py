"""A run's directory belongs to one training at a time, for as long as that one lives."""

import errno
import fcntl
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

WITHOUT_LOCKS = """
import errno, fcntl
def flock(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""
RACE = """
import sys, time
from pathlib import Path
from mtrl.storage.lock import run_lock
from mtrl.storage.run_directory import RunDirectoryError
while time.time() < float(sys.argv[2]):
    pass
try:
    with run_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(2)
except RunDirectoryError:
    print("refused", flush=True)
"""
NO_LOCKS_FILE_SYSTEM = """
import errno, os, sys
import mfusepy as fuse
class Passing(fuse.Operations):
    def __init__(self, root): self.root = root
    def _at(self, path): return self.root + path
    def getattr(self, path, fh=None):
        found = os.lstat(self._at(path))
        names = ("mode", "nlink", "uid", "gid", "size", "atime", "mtime", "ctime")
        return {f"st_{name}": getattr(found, f"st_{name}") for name in names}
    def readdir(self, path, fh): return [".", "..", *os.listdir(self._at(path))]
    def create(self, path, mode, fi=None):
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    def open(self, path, flags): return os.open(self._at(path), flags & ~os.O_APPEND)
    def read(self, path, size, offset, fh): return os.pread(fh, size, offset)
    def write(self, path, data, offset, fh): return os.pwrite(fh, data, offset)
    def truncate(self, path, length, fh=None): os.truncate(self._at(path), length)
    def unlink(self, path): os.unlink(self._at(path))
    def rename(self, old, new): os.rename(self._at(old), self._at(new))
    def mkdir(self, path, mode): os.mkdir(self._at(path), mode)
    def flush(self, path, fh): return 0
    def release(self, path, fh): os.close(fh)
    def flock(self, path, fh, op): raise fuse.FuseOSError(errno.ENOLCK)
    def lock(self, path, fh, cmd, lock): raise fuse.FuseOSError(errno.ENOLCK)
fuse.FUSE(Passing(sys.argv[1]), sys.argv[2], foreground=True, default_permissions=True)
"""


@pytest.fixture(params=["locks", "no locks"])
def preamble(request) -> str:
    """Code before that of a process, which takes its locks away where the file system is to have none."""
    return WITHOUT_LOCKS if request.param == "no locks" else ""


def test_of_processes_that_begin_together_one_holds(tmp_path: Path, preamble: str) -> None:
    begin = str(time.time() + 4.0)  # when all have started
    command = [sys.executable, "-c", preamble + RACE, str(tmp_path), begin]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(racer.communicate(timeout=60)[0].strip() for racer in racers) == ["held", "refused", "refused", "refused"]


def test_of_processes_that_find_a_dead_ones_claim_one_holds(tmp_path: Path) -> None:
    _kill_a_holder(tmp_path, WITHOUT_LOCKS)
    assert RunLayout(tmp_path).claim.exists()
    test_of_processes_that_begin_together_one_holds(tmp_path, WITHOUT_LOCKS)
    assert not RunLayout(tmp_path).claim.exists()


def test_a_claim_of_another_machine_is_held_until_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _refuse)
    claim = RunLayout(tmp_path).claim
    claim.write_text("another-machine,boot,namespace 17 1234")
    with pytest.raises(RunDirectoryError, match=f"remove {claim}"), run_lock(tmp_path):
        pass
    said: list[str] = []
    with run_lock(tmp_path, patience=0.2, tell=said.append):
        assert "taken for lost" in said[1]
        with pytest.raises(RunDirectoryError, match="is being trained by process"), run_lock(tmp_path):
            pass
    assert not claim.exists()


def test_of_processes_that_wait_for_a_lost_machine_one_takes_over(tmp_path: Path) -> None:
    """They begin together, so that their patience ends together."""
    RunLayout(tmp_path).claim.write_text("another-machine,boot,namespace 17 1234")
    patient = (WITHOUT_LOCKS + RACE).replace("run_lock(Path(sys.argv[1]))", "run_lock(Path(sys.argv[1]), patience=1.0)")
    assert patient.count("patience") == 1
    command = [sys.executable, "-c", patient, str(tmp_path), str(time.time() + 4.0)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sorted(racer.communicate(timeout=60)[0].strip() for racer in racers) == ["held", "refused", "refused", "refused"]


@pytest.mark.slow
def test_a_mounted_file_system_without_locks(tmp_path: Path) -> None:
    """As the tests above, but it is the kernel that refuses the locks; needs root, /dev/fuse and the package mfusepy."""
    pytest.importorskip("mfusepy")
    below, mounted = tmp_path / "below", tmp_path / "mounted"
    below.mkdir(), mounted.mkdir()
    with subprocess.Popen([sys.executable, "-c", NO_LOCKS_FILE_SYSTEM, str(below), str(mounted)]) as server:
        try:
            end = time.monotonic() + 20
            while not mounted.is_mount() and time.monotonic() < end:
                time.sleep(0.1)
            with (mounted / "file").open("w") as file, pytest.raises(OSError, match="No locks available"):
                fcntl.flock(file, fcntl.LOCK_EX)
            _kill_a_holder(mounted, "")
            assert RunLayout(mounted).claim.exists()
            test_of_processes_that_begin_together_one_holds(mounted, "")
        finally:
            subprocess.run(["fusermount", "-u", str(mounted)])
            server.wait(20)


def _refuse(*arguments: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def _kill_a_holder(run: Path, preamble: str) -> None:
    with subprocess.Popen([sys.executable, "-c", preamble + HOLD, str(run)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()


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
    with run_lock(tmp_path):
        lock = RunLayout(tmp_path).lock
        with pytest.raises(RunDirectoryError, match="is being trained by"), run_lock(tmp_path, patience=0.2):
            pass  # the holder is a process of this machine that lives: it may be in a long update
        lock.write_text("process 7 of another-machine\n")
        with run_lock(tmp_path, patience=0.2, tell=said.append):
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
