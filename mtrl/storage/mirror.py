"""A run's newest checkpoints on another file system, any that fsspec knows (s3://, gs://, sftp://), should this disk be lost.

A copy is written file by file, its manifest last: without one it does not count. Every file is compared with its hash when it comes back.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from mtrl.config import ConfigError
from mtrl.storage.checkpoint import MANIFEST, DamagedCheckpointError, load_checkpoint, steps
from mtrl.storage.layout import ARCHIVED_CONFIG, RunLayout
from mtrl.storage.sealed import publish

_NAMES = RunLayout(Path())
SMALL_FILES = (_NAMES.config.name, _NAMES.versions.name, _NAMES.metrics.name)
CHECKPOINTS = _NAMES.checkpoints.name


SLOW_SECONDS = 300.0  # of a copy, before it is said that newer checkpoints wait for it
ANSWER_SECONDS = 60.0  # for a file system to list a folder
QUICK_ANSWER_SECONDS = 3.0  # the same where a run begins, which need not know
FILE_SECONDS = 1800.0  # for a file system to send a file
SILENT_SECONDS = 2.0  # before it is said what is waited for

Answer = TypeVar("Answer")


class Mirror:
    """Copies in a thread of its own. A file system that refuses or hangs is a message, and training goes on."""

    def __init__(self, url: str, keep: int):
        """
        Raises:
            ConfigError: fsspec does not know the protocol, or lacks the package for it.
        """
        self._files, self._root = _open(url, lambda question: _answer(question, ANSWER_SECONDS))
        self._url, self._keep = url, keep
        self._copying: Future[None] | None = None
        self._step = 0
        self._began = 0.0
        self._told = False  # that the copy takes long

    def offer(self, run: Path) -> None:
        """Copies the newest checkpoint of `run`, unless the one before is still on its way."""
        if self._copying is None:
            self._began, self._told = time.monotonic(), False
            self._step = step = steps(run / CHECKPOINTS)[-1]
            self._copying = _in_thread(lambda: self._copy(run, step))

    @property
    def copying(self) -> int | None:
        """The step that is on its way, and has to stay until then."""
        return self._step if self._copying is not None and not self._copying.done() else None

    def poll(self) -> str | None:
        """The error of the copy that has ended since the last call, if it failed; once, that a copy takes long."""
        return self._outcome("newer checkpoints wait for it", SLOW_SECONDS)

    def finish(self, seconds: float) -> str | None:
        """Waits at most `seconds` for a copy that is on its way; its error, if it failed or has not ended."""
        if self._copying is not None:
            wait([self._copying], timeout=seconds)
        return self._outcome("it is given up", 0.0)

    def _outcome(self, consequence: str, patience: float) -> str | None:
        if self._copying is None:
            return None
        if not self._copying.done():
            took = time.monotonic() - self._began
            if self._told or took < patience:
                return None
            self._told = True
            return f"the copy of the checkpoint to {self._url} has not ended after {took:.0f} s; {consequence}"
        copying, self._copying = self._copying, None
        error = copying.exception()  # every file system has errors of its own
        return None if error is None else f"cannot copy the checkpoint to {self._url}: {_said(error)}"

    def _copy(self, run: Path, newest: int) -> None:
        there = f"{self._root}/{CHECKPOINTS}/{newest}"
        self._files.makedirs(there, exist_ok=True)
        here = run / CHECKPOINTS / str(newest)
        for path in sorted(here.iterdir(), key=lambda path: path.name == MANIFEST):
            self._files.put_file(str(path), f"{there}/{path.name}")
        for name in (*SMALL_FILES, *(path.name for path in RunLayout(run).archived_configs().values())):
            if (run / name).is_file():
                self._files.put_file(str(run / name), f"{self._root}/{name}")
        for step in _steps(self._files, self._root)[: -self._keep]:
            old = f"{self._root}/{CHECKPOINTS}/{step}"
            self._files.rm_file(f"{old}/{MANIFEST}")
            self._files.rm(old, recursive=True)


def holds_copy(url: str) -> bool:
    """Whether there are checkpoints of a run; False also where the file system does not answer at once.

    Raises:
        ConfigError: fsspec does not know the protocol, or lacks the package for it.
    """
    try:
        files, root = _answer(lambda: fsspec.core.url_to_fs(url), QUICK_ANSWER_SECONDS)
        return bool(_answer(lambda: _steps(files, root.rstrip("/")), QUICK_ANSWER_SECONDS))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"checkpoints.copy_to: cannot open {url}: {_said(error)}") from None
    except Exception:  # every file system has errors of its own, and the first copy will say so
        return False


def fetch(url: str, run: Path, tell: Callable[[str], None] = lambda message: None) -> bool:
    """Brings the newest whole copy of a run into the folder `run`, which has none yet.

    Args:
        url: where the copy is.
        run: the folder.
        tell: told what is waited for.

    Returns:
        whether there was one.

    Raises:
        ConfigError: fsspec does not know the protocol, or the file system cannot be read or does not answer.
    """

    def ask(question: Callable[[], Answer], seconds: float = ANSWER_SECONDS) -> Answer:
        return _answer(question, seconds, lambda: tell(f"reading {url}; waiting up to {seconds:.0f} s for an answer"))

    files, root = _open(url, ask)

    def get(there: str, here: Path) -> None:
        ask(lambda: files.get_file(there, str(here)), FILE_SECONDS)

    try:
        for step in reversed(ask(lambda: _steps(files, root))):
            # Elsewhere until it is whole: what is left of a broken connection must not pass for a run.
            with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=_existing_parent(run)) as temporary:
                folder = Path(temporary) / str(step)
                folder.mkdir()
                for path in ask(functools.partial(files.ls, f"{root}/{CHECKPOINTS}/{step}", detail=False)):
                    get(path, folder / Path(path).name)
                try:
                    load_checkpoint(folder)
                except DamagedCheckpointError as damaged:
                    tell(f"warning: the copy of step {step} in {url} is passed over: {damaged}")
                    continue
                present = [Path(path).name for path in ask(lambda: files.ls(root, detail=False))]
                small = [name for name in SMALL_FILES if name in present] + [name for name in present if ARCHIVED_CONFIG.fullmatch(name)]
                for name in small:
                    get(f"{root}/{name}", Path(temporary) / name)
                (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
                shutil.rmtree(run / CHECKPOINTS / str(step), ignore_errors=True)  # of a process that was killed here
                folder.rename(run / CHECKPOINTS / str(step))
                for name in reversed(small):  # the experiment last: with it the folder is a run
                    publish(Path(temporary) / name, run / name)
            return True
    except Exception as error:  # every file system has errors of its own
        raise ConfigError(f"checkpoints.copy_to: cannot read {url}: {_said(error)}") from None
    return False


def _answer(question: Callable[[], Answer], seconds: float, tell: Callable[[], None] = lambda: None) -> Answer:
    """What `question` returns; `tell` is called if that takes a while.

    Raises:
        TimeoutError: there is no answer in time.
    """
    answer = _in_thread(question)
    wait([answer], timeout=min(SILENT_SECONDS, seconds))
    if not answer.done():
        tell()
        wait([answer], timeout=seconds - SILENT_SECONDS)
    if not answer.done():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return answer.result()


def _in_thread(work: Callable[[], Answer]) -> Future[Answer]:
    """Does the work in a thread that may hang for ever: it does not keep the process from ending."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mirror", daemon=True).start()
    return future


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _existing_parent(path: Path) -> Path:
    """The nearest folder above that there is: on the same file system, so that renaming is moving."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _open(url: str, ask: Callable[[Callable[[], tuple[Any, str]]], tuple[Any, str]]) -> tuple[Any, str]:
    """The file system, to which some protocols connect at once, and the path in it."""
    try:
        files, root = ask(lambda: fsspec.core.url_to_fs(url))
    except Exception as error:  # every file system has errors of its own
        raise ConfigError(f"checkpoints.copy_to: cannot open {url}: {_said(error)}") from None
    return files, root.rstrip("/")


def _steps(files: Any, root: str) -> list[int]:
    """The steps of checkpoints with a manifest, ascending."""
    files.invalidate_cache()
    try:
        names = [Path(path).name for path in files.ls(f"{root}/{CHECKPOINTS}", detail=False)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdigit() and files.exists(f"{root}/{CHECKPOINTS}/{name}/{MANIFEST}"))
