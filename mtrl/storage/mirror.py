"""A run's newest checkpoints on another file system, any that fsspec knows (s3://, gs://, sftp://), should this disk be lost.

A copy is written file by file, its manifest last: without one it does not count. Every file is compared with its hash when it comes back.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec

from mtrl.config import ConfigError
from mtrl.storage.checkpoint import MANIFEST, DamagedCheckpointError, load_checkpoint, steps
from mtrl.storage.layout import RunLayout
from mtrl.storage.sealed import publish

_NAMES = RunLayout(Path())
SMALL_FILES = (_NAMES.config.name, _NAMES.versions.name, _NAMES.metrics.name)
CHECKPOINTS = _NAMES.checkpoints.name


class Mirror:
    """Copies in a thread of its own. A file system that refuses is a message, and training goes on."""

    def __init__(self, url: str, keep: int):
        """
        Raises:
            ConfigError: fsspec does not know the protocol, or lacks the package for it.
        """
        self._files, self._root = _open(url)
        self._url, self._keep = url, keep
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._copying: Future[None] | None = None

    def offer(self, run: Path) -> None:
        """Copies the newest checkpoint of `run`, unless the one before is still on its way."""
        if self._copying is None:
            self._copying = self._thread.submit(self._copy, run)

    def poll(self, *, wait: bool = False) -> str | None:
        """The error of the copy that has ended since the last call, if it failed."""
        if self._copying is None or not (wait or self._copying.done()):
            return None
        copying, self._copying = self._copying, None
        try:
            copying.result()
        except Exception as error:  # every file system has errors of its own
            return f"cannot copy the checkpoint to {self._url}: {' '.join(str(error).split()) or type(error).__name__}"
        return None

    def close(self) -> None:
        """Waits for a copy that is on its way."""
        self._thread.shutdown()

    def _copy(self, run: Path) -> None:
        newest = steps(run / CHECKPOINTS)[-1]
        there = f"{self._root}/{CHECKPOINTS}/{newest}"
        self._files.makedirs(there, exist_ok=True)
        here = run / CHECKPOINTS / str(newest)
        for path in sorted(here.iterdir(), key=lambda path: path.name == MANIFEST):
            self._files.put_file(str(path), f"{there}/{path.name}")
        for name in SMALL_FILES:
            if (run / name).is_file():
                self._files.put_file(str(run / name), f"{self._root}/{name}")
        for step in _steps(self._files, self._root)[: -self._keep]:
            old = f"{self._root}/{CHECKPOINTS}/{step}"
            self._files.rm_file(f"{old}/{MANIFEST}")
            self._files.rm(old, recursive=True)


def fetch(url: str, run: Path) -> bool:
    """Brings the newest whole copy of a run into the folder `run`, which has none yet.

    Returns:
        whether there was one.

    Raises:
        ConfigError: fsspec does not know the protocol, or the file system cannot be read.
    """
    files, root = _open(url)
    try:
        for step in reversed(_steps(files, root)):
            # Elsewhere until it is whole: what is left of a broken connection must not pass for a run.
            with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=_existing_parent(run)) as temporary:
                folder = Path(temporary) / str(step)
                folder.mkdir()
                for path in files.ls(f"{root}/{CHECKPOINTS}/{step}", detail=False):
                    files.get_file(path, str(folder / Path(path).name))
                try:
                    load_checkpoint(folder)
                except DamagedCheckpointError:
                    continue
                small = [name for name in SMALL_FILES if files.exists(f"{root}/{name}")]
                for name in small:
                    files.get_file(f"{root}/{name}", str(Path(temporary) / name))
                (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
                folder.rename(run / CHECKPOINTS / str(step))
                for name in reversed(small):  # the experiment last: with it the folder is a run
                    publish(Path(temporary) / name, run / name)
            return True
    except Exception as error:  # every file system has errors of its own
        raise ConfigError(f"checkpoints.copy_to: cannot read {url}: {' '.join(str(error).split()) or type(error).__name__}") from None
    return False


def _existing_parent(path: Path) -> Path:
    """The nearest folder above that there is: on the same file system, so that renaming is moving."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _open(url: str) -> tuple[Any, str]:
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"checkpoints.copy_to: cannot open {url}: {' '.join(str(error).split())}") from None
    return files, root.rstrip("/")


def _steps(files: Any, root: str) -> list[int]:
    """The steps of checkpoints with a manifest, ascending."""
    files.invalidate_cache()
    try:
        names = [Path(path).name for path in files.ls(f"{root}/{CHECKPOINTS}", detail=False)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdigit() and files.exists(f"{root}/{CHECKPOINTS}/{name}/{MANIFEST}"))
