"""Checks of a Ray cluster before a run waits for it: cores and GPUs, and on every node versions, environments and the run's folder."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from envs import make_suite
from mtrl.config import ExperimentConfig
from mtrl.distributed.cluster import ResourceError, check_resources, start_ray
from mtrl.distributed.surroundings import RayUnavailableError, socket_folder
from mtrl.machine import PROJECT_ROOT, STEP_ONCE, Finding, run_python
from mtrl.storage.run_directory import trial_folder, versions

NODE_SECONDS = 240.0  # how long a node may take to answer


def inspect_cluster(config: ExperimentConfig, run_dir: Path | None) -> list[Finding]:
    """Findings about the cluster that RAY_ADDRESS names, or that Ray would start here."""
    start_ray()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    have = ray.cluster_resources()
    lines = [Finding("ok", "nodes", f"{len(nodes)}, {have.get('CPU', 0):g} cores, {have.get('GPU', 0):g} GPUs")]
    try:
        check_resources(config)
        lines.append(Finding("ok", "runners", f"{config.env_runners.num_env_runners} fit"))
    except ResourceError as error:
        lines.append(Finding("problem", "runners", str(error)))
    served = make_suite(config.suite.name).backends
    backend = served[0] if config.suite.backend == "auto" else config.suite.backend
    token = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        file = None
        if run_dir is not None:
            place = stack.enter_context(trial_folder(run_dir))
            try:
                place.mkdir(parents=True, exist_ok=True)
                file = place.absolute() / f".doctor-{token}"
                stack.callback(file.unlink, missing_ok=True)
                file.write_text(token)
            except OSError as error:
                lines.append(Finding("problem", "run directory", f"{run_dir} cannot be written to: {error.strerror}"))
                file = None
        answers = _ask(nodes, str(file) if file else None, config.suite.name, backend)
    lines += _compare_versions(answers)
    lines += _faults(answers)
    if file is not None:
        lines += _compare_folder(answers, token, file.parent)
    elif run_dir is None:
        lines.append(Finding("note", "run directory", "not looked at: give --run-dir"))
    ray.shutdown()
    return lines


def _ask(nodes: list[dict[str, Any]], file: str | None, suite: str, backend: str) -> dict[str, dict[str, Any] | str]:
    """Each node's versions, faults and token by its address; a sentence for a node that does not answer."""
    asked = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        address = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
        asked[address] = _look.options(scheduling_strategy=where).remote(file, suite, backend)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=NODE_SECONDS)
    answers: dict[str, dict[str, Any] | str] = {}
    for address, reference in asked.items():
        try:
            answers[address] = ray.get(reference, timeout=0.1)
        except Exception as error:
            lines = str(error).strip().splitlines()
            answers[address] = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return answers


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _look(file: str | None, suite: str, backend: str) -> dict[str, Any]:
    """Runs on a node, where it does what a runner needs to do there."""
    try:
        read = None if file is None else Path(file).read_text()
    except OSError:
        read = None
    faults = []
    if fault := run_python(STEP_ONCE, suite, backend).fault:  # in a process of its own: a broken simulator may crash
        faults.append(f"cannot step {suite} with {backend}: {fault}")
    try:
        socket_folder()
    except RayUnavailableError as error:
        faults.append(str(error))
    return {"versions": {**versions(), "code": code_hash()}, "token": read, "faults": faults}


def code_hash() -> str:
    """A hash of this project's Python files; it tells nodes with different code apart even if they report the same commit."""
    digest = hashlib.sha256()
    for package in ("mtrl", "envs"):
        for path in sorted((PROJECT_ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(PROJECT_ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _compare_versions(answers: dict[str, dict[str, Any] | str]) -> list[Finding]:
    ours = {**versions(), "code": code_hash()}
    lines = []
    for address, answer in answers.items():
        if isinstance(answer, str):
            lines.append(Finding("problem", f"node {address}", f"does not answer: {answer}"))
            continue
        theirs = answer["versions"]
        differing = [f"{name} {theirs.get(name)} instead of {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
        hard = [text for text in differing if text.split()[0] not in ("commit", "platform")]
        if hard:
            lines.append(Finding("problem", f"node {address}", "has " + ", ".join(hard)))
        elif differing:
            lines.append(Finding("note", f"node {address}", "has " + ", ".join(differing)))
    if not lines:
        lines.append(Finding("ok", "versions", f"the same on all nodes (code {ours['code']})"))
    return lines


def _faults(answers: dict[str, dict[str, Any] | str]) -> list[Finding]:
    faults = [
        Finding("problem", f"node {address}", fault)
        for address, answer in answers.items()
        if isinstance(answer, dict)
        for fault in answer["faults"]
    ]
    return faults or [Finding("ok", "environments", "one of each task steps on all nodes")]


def _compare_folder(answers: dict[str, dict[str, Any] | str], token: str, folder: Path) -> list[Finding]:
    blind = [address for address, answer in answers.items() if isinstance(answer, dict) and answer["token"] != token]
    if blind:
        what = "training needs it on the driver's node only, but a driver that is started on another one will not find it there"
        return [Finding("note", "run directory", f"{folder} is not the same folder on {', '.join(blind)}: {what}")]
    return [Finding("ok", "run directory", f"{folder} is the same on all nodes")]
