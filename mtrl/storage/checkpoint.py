"""Checkpoints and policies on disk: no pickle, every byte hashed, and never a half-written one in place of a whole one.

A checkpoint is a folder `STEP/` with two files for each component, its tensors (`safetensors`) and its structure (JSON), and a
`manifest.json` with the size and hash of each file and of itself. It is written under another name and renamed when it is complete.
`latest` and `best` are files that hold a step. Runs of the first version have symbolic links there, and copies of those runs may have
folders, or nothing; all of them are read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch

from envs.vector import Arrays
from mtrl.errors import UserError
from mtrl.storage.sealed import TEMPORARY, replace_text, sync, write_synced

FORMAT = 1
MANIFEST = "manifest.json"
LEFT_SECONDS = 600.0  # after which a file under a temporary name is nobody's any more


class CheckpointError(UserError):
    """A checkpoint cannot be written, or there is none to read."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's files are not those that were written."""


class UnreadableCheckpointError(CheckpointError):
    """A checkpoint's files are there, but this process cannot read them: they may be whole."""


class Manifest(NamedTuple):
    """The description that a checkpoint carries."""

    step: int  # trained frames
    tasks: tuple[str, ...]
    score: float | None


class Loaded(NamedTuple):
    """A checkpoint that was found whole."""

    path: Path
    components: dict[str, Any]
    manifest: Manifest


def save_checkpoint(
    root: Path,
    step: int,
    components: dict[str, Any],
    *,
    tasks: Sequence[str],
    keep: int,
    score: float | None = None,
    protected: Collection[int] = (),
) -> Path:
    """Writes `root/STEP` and names it in `latest` (and in `best`, if its score is the highest so far).

    Args:
        root: the folder of checkpoints.
        step: trained frames.
        components: name → tree of dicts (string or integer keys), lists, tensors, arrays, numbers, strings, booleans and None.
        tasks: the tasks' names, in order.
        keep: the newest checkpoints that stay; the best one stays as well.
        score: what `best` compares; None never is the best.
        protected: steps that stay besides.

    Raises:
        CheckpointError: the disk is full, read-only or otherwise unwilling. What was there before is still there.
    """

    def write(folder: Path) -> None:
        files = {}
        for name, tree in components.items():
            tensors: dict[str, torch.Tensor] = {}
            structure = json.dumps(_encode(tree, tensors)).encode()
            for file, content in ((f"{name}.json", structure), (f"{name}.safetensors", safetensors.torch.save(tensors))):
                write_synced(folder / file, content)
                files[file] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = {"format": FORMAT, "step": step, "tasks": list(tasks), "score": score, "files": files}
        write_synced(folder / MANIFEST, _sealed(manifest))

    path = _publish(root, str(step), write)
    try:
        _name(root / "latest", step)
        best = named_step(root, "best")
        if score is not None and (best is None or score > _score_of(root / str(best))):
            _name(root / "best", best := step)
        kept = {path.name, str(best), *map(str, protected), *[str(s) for s in steps(root)[-keep:]]}
        for old in steps(root):
            if str(old) not in kept:
                _remove(root / str(old))
    except OSError as error:
        raise CheckpointError(f"cannot name the newest checkpoint in {root}: {error.strerror}") from None
    return path


def mark_best(root: Path, step: int) -> None:
    """Names a step that is there in `best`.

    Raises:
        CheckpointError: the disk is full or read-only.
    """
    try:
        _name(root / "best", step)
    except OSError as error:
        raise CheckpointError(f"cannot name the best checkpoint in {root}: {error.strerror}") from None


def load_checkpoint(path: Path) -> Loaded:
    """Reads a checkpoint after comparing every file with its hash.

    Raises:
        DamagedCheckpointError: names the file and what is wrong with it.
        UnreadableCheckpointError: a file is there and cannot be read.
    """
    manifest = _read_manifest(path)
    contents = {}
    for file, expected in manifest["files"].items():
        try:
            content = (path / file).read_bytes()
        except OSError as error:
            raise _not_read(f"checkpoint {path}", file, error) from None
        if len(content) != expected["size"]:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file} has {len(content)} bytes instead of {expected['size']}")
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: the content of {file} has changed")
        contents[file] = content
    components = {
        Path(file).stem: _decode(json.loads(content), safetensors.torch.load(contents[f"{Path(file).stem}.safetensors"]))
        for file, content in contents.items()
        if file.endswith(".json")
    }
    return Loaded(path, components, Manifest(manifest["step"], tuple(manifest["tasks"]), manifest["score"]))


def newest_valid(root: Path) -> tuple[Loaded | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each damaged one that was passed over.

    Raises:
        UnreadableCheckpointError: one cannot be read. It may be whole, so that no older one takes its place.
    """
    problems: list[str] = []
    for step in reversed(steps(root)):
        try:
            return load_checkpoint(root / str(step)), problems
        except DamagedCheckpointError as error:
            problems.append(str(error))
    return None, problems


def steps(root: Path) -> list[int]:
    """The steps that have a folder in `root`, ascending."""
    return sorted(int(entry.name) for entry in root.iterdir() if entry.name.isdigit()) if root.is_dir() else []


def resolve(root: Path, which: str) -> Path:
    """The folder that `latest`, `best` or a step names.

    Raises:
        CheckpointError: there is none; the message lists those that exist.
    """
    if which not in ("latest", "best") and not which.isdigit():
        raise CheckpointError(f"a checkpoint is 'latest', 'best' or a number of frames, not {which!r}")
    existing = steps(root)
    step = int(which) if which.isdigit() else named_step(root, which)
    if step not in existing:
        listing = f"there are {', '.join(map(str, existing))}" if existing else "there are none yet"
        raise CheckpointError(f"{root} has no checkpoint {which!r}; {listing}")
    return root / str(step)


def resolve_policy(checkpoints: Path, policies: Path, which: str) -> Path:
    """The folder of the policy that `latest`, `best` or a step names. A copy of a run may have its policies without its checkpoints.

    Raises:
        CheckpointError: there is none.
    """
    return policies / resolve(checkpoints if steps(checkpoints) else policies, which).name


def named_step(root: Path, name: str) -> int | None:
    """The step that `latest` or `best` names; None if there is none.

    Copies lose links, or make folders of them. Where nothing names a step any more, `latest` is the newest one.
    """
    path = root / name
    try:
        if path.is_symlink():
            return int(Path(os.readlink(path)).name)
        if path.is_dir():
            return int(_read_manifest(path)["step"])
        if path.is_file():
            return int(path.read_text())
    except (OSError, ValueError, CheckpointError):  # cut off, or a link to something else
        pass
    existing = steps(root)
    return existing[-1] if existing and name == "latest" else None


def save_policy(root: Path, step: int, weights: Arrays, description: dict[str, Any], *, keep: Sequence[int]) -> Path:
    """Writes `root/STEP/weights.safetensors` and `policy.json`, and removes the steps that are not in `keep`.

    Raises:
        CheckpointError: the disk is full or read-only.
    """

    def write(folder: Path) -> None:
        content = safetensors.torch.save({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()})
        write_synced(folder / "weights.safetensors", content)
        write_synced(
            folder / "policy.json", _sealed(description | {"format": FORMAT, "weights_sha256": hashlib.sha256(content).hexdigest()})
        )

    path = _publish(root, str(step), write)
    for old in steps(root):
        if old != step and old not in keep:
            _remove(root / str(old))
    return path


def load_policy(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and description of a policy; neither unpickles nor imports Ray.

    Raises:
        DamagedCheckpointError: a file is missing or is not what was written.
        UnreadableCheckpointError: a file is there and cannot be read.
    """
    try:
        description = _unsealed(path / "policy.json")
        content = (path / "weights.safetensors").read_bytes()
    except OSError as error:
        raise _not_read(f"policy {path}", Path(error.filename).name, error) from None
    if hashlib.sha256(content).hexdigest() != description["weights_sha256"]:
        raise DamagedCheckpointError(f"policy {path} is damaged: the content of weights.safetensors has changed")
    return safetensors.torch.load(content), description


def _publish(root: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a temporary folder and renames it to `root/name` when all of it is on the disk."""
    temporary = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = root / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir()
        _clear_up(root, temporary)
        write(temporary)
        sync(temporary)
        final = root / name
        if final.exists():
            # Saved at this step before: moved away first, since a rename cannot replace a folder that is not empty.
            final.rename(root / f"{TEMPORARY}old-{name}")
        temporary.rename(final)
        sync(root)
        shutil.rmtree(root / f"{TEMPORARY}old-{name}", ignore_errors=True)
        return final
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"cannot save {root / name}: {error.strerror}") from None


def _remove(folder: Path) -> None:
    """Renamed first: a process that is killed meanwhile leaves no half of it under its name."""
    temporary = folder.with_name(f"{TEMPORARY}old-{folder.name}")
    with contextlib.suppress(OSError):
        folder.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _clear_up(root: Path, own: Path) -> None:
    """Removes what processes have left that were killed while they wrote. What is younger may be another process's at this moment."""
    now = own.stat().st_mtime  # by the clock of the file server
    for stale in root.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if stale != own and now - stale.stat().st_mtime > LEFT_SECONDS:
                if stale.is_dir():
                    shutil.rmtree(stale, ignore_errors=True)
                else:  # of `latest` or `best`
                    stale.unlink()


def _name(file: Path, step: int) -> None:
    """Makes a file that holds a step, in place of a former one, of a link, or of the folder that a copy has made of a link."""
    if file.is_dir() and not file.is_symlink():
        _remove(file)
    replace_text(file, f"{step}\n")


def _not_read(what: str, file: str, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return DamagedCheckpointError(f"{what} is damaged: {file} is missing")
    return UnreadableCheckpointError(f"{what} cannot be read: {file}: {error.strerror}")


def _score_of(path: Path) -> float:
    try:
        score = _read_manifest(path)["score"]
    except DamagedCheckpointError:
        return float("-inf")
    return float("-inf") if score is None else float(score)


def _sealed(values: dict[str, Any]) -> bytes:
    """JSON that carries its own hash."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps({"values": values, "sha256": digest}, indent=1, sort_keys=True).encode()


def _unsealed(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        sealed = json.loads(content)
        values: dict[str, Any] = sealed["values"]
    except (ValueError, KeyError, TypeError):
        raise DamagedCheckpointError(f"checkpoint {path.parent} is damaged: {path.name} is not the JSON that was written") from None
    # Compared byte for byte, so that a change which JSON does not see is a change all the same.
    if content != _sealed(values):
        raise DamagedCheckpointError(f"checkpoint {path.parent} is damaged: the content of {path.name} has changed")
    return values


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return _unsealed(path / MANIFEST)
    except OSError as error:
        raise _not_read(f"checkpoint {path}", MANIFEST, error) from None


def _encode(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON of a tree, whose tensors and arrays move to `tensors`. What JSON cannot tell apart becomes a pair [kind, content]."""
    if isinstance(tree, torch.Tensor | np.ndarray):
        key = str(len(tensors))
        # A clone, since safetensors refuses tensors that share memory.
        # NumPy's contiguous copy of a single number is a vector of one.
        tensor = torch.from_numpy(np.ascontiguousarray(tree)).reshape(tree.shape) if isinstance(tree, np.ndarray) else tree.detach().cpu()
        tensors[key] = tensor.clone(memory_format=torch.contiguous_format)
        return ["array" if isinstance(tree, np.ndarray) else "tensor", key]
    if isinstance(tree, dict):
        return ["dict", [[key, _encode(value, tensors)] for key, value in tree.items()]]
    if isinstance(tree, list | tuple):
        return ["list", [_encode(value, tensors) for value in tree]]
    if isinstance(tree, bytes):
        return ["bytes", base64.b64encode(tree).decode()]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"a checkpoint cannot hold a {type(tree).__name__}")


def _decode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(node, list):
        return node
    kind, content = node
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {key: _decode(value, tensors) for key, value in content}
    if kind == "bytes":
        return base64.b64decode(content)
    return [_decode(value, tensors) for value in content]
