"""A report of this machine: packages, cores, memory, GPU, one real step of every backend, and a start of the run itself.

Everything that may crash runs in a process of its own, so that a broken package is a line of the report and not the end of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import rich.console
from packaging.requirements import Requirement
from rich.text import Text

from mtrl.cli.advice import Machine, advise
from mtrl.cli.findings import findings_table
from mtrl.config import ExperimentConfig, dump_yaml, override
from mtrl.config.advice import follow, write_config
from mtrl.machine import (
    OBJECT_STORE_BYTES,
    PACKAGES,
    PROJECT_ROOT,
    STEP_ONCE,
    Child,
    Finding,
    available_memory,
    family_of,
    idle_seconds,
    own_cores,
    package_version,
    run_python,
    usable_cores,
)
from mtrl.storage.layout import RunLayout
from mtrl.storage.run_directory import is_free, trial_folder

CHECKED_PACKAGES = (*PACKAGES, "pydantic", "safetensors", "tensorboardX")
GIB = 2**30
SIMULATORS = {
    "envpool": "environments step on gymnasium instead, 20 to 30 times slower",
    "minigrid": "minigrid suites will not work, nor will their evaluation",
    "metaworld": "metaworld suites will not work, nor will their evaluation",
}
LOAD_SECONDS = 0.5  # for which others are watched
START_SECONDS = 240  # how long a start of the run may take

PRINT_BACKENDS = "import sys; from mtrl.cli.doctor import print_backends; print_backends(sys.argv[1])"
TORCH_FACTS = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else [],
    "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False) if cuda else
        any(torch.cpu.get_capabilities().get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16")),
    "built_for_cuda": torch.version.cuda is not None,
}))
"""


def examine(config: ExperimentConfig, run_dir: Path | None, advised: Path | None = None) -> int:
    """Prints the report and advice for this machine.

    Args:
        config: the run that must be able to start.
        run_dir: where its files would go; a new folder in `runs` if None.
        advised: a file for the experiment with the advice in it.

    Returns:
        the exit code: 1 if that run cannot start.
    """
    installed = {package: version for package in CHECKED_PACKAGES if (version := package_version(package))}
    console = rich.console.Console()
    console.print(Text(f"python {platform.python_version()}, " + ", ".join(f"{name} {version}" for name, version in installed.items())))
    code = _conclude(console, collect_findings(config, run_dir), config)
    _advise(console, config, advised)
    return code


def _advise(console: rich.console.Console, config: ExperimentConfig, path: Path | None) -> None:
    """Prints what the experiment should ask of this machine, and writes it where there is a path.

    Raises:
        UserError: the file cannot be written.
    """
    child = run_python(TORCH_FACTS)
    facts: dict[str, Any] = {"gpus": [], "bfloat16": False} if child.fault else json.loads(child.output.splitlines()[-1])
    advice = advise(config, Machine(usable_cores(), available_memory(), len(facts["gpus"]), facts["bfloat16"]))
    console.print(Text("\nFor this machine:"))
    for each in advice:
        console.print(Text(f"  {each.option}: {each.reason}"), soft_wrap=True)
    if path is None:
        console.print(Text("doctor --write FILE writes the experiment with these values."))
        return
    write_config(follow(config, advice), path)
    console.print(Text(f"to train it: python launch.py train {path}"), soft_wrap=True)


def examine_cluster(config: ExperimentConfig, run_dir: Path | None) -> int:
    """Prints the report of the Ray cluster that RAY_ADDRESS names, where a run is started at the end; returns the exit code."""
    from mtrl.distributed.inspect import inspect_cluster

    findings = [*check_folder(run_dir), *inspect_cluster(config, run_dir)]
    return _conclude(rich.console.Console(), findings + _start_if_possible(findings, config, run_dir), config)


def _conclude(console: rich.console.Console, findings: list[Finding], config: ExperimentConfig) -> int:
    """Prints the findings and returns the exit code."""
    console.print()
    console.print(findings_table(findings))
    console.print()
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        console.print(Text(f"The run {config.name} cannot start: {problems} problem{'s' if problems > 1 else ''} above."))
        return 1
    console.print(Text(f"The run {config.name} can start."))
    return 0


def collect_findings(config: ExperimentConfig, run_dir: Path | None) -> list[Finding]:
    """Findings of all checks; the slow checks run side by side. Where none of them finds a problem, the run is started for one update."""
    load = list(check_load())
    with _pool() as pool:
        listed = pool.submit(run_python, PRINT_BACKENDS, config.suite.name)
        torch = pool.submit(run_python, TORCH_FACTS)
        ray = pool.submit(run_python, "import ray.rllib")
        imported = {package: pool.submit(run_python, f"import {package}") for package in SIMULATORS}
        fault = listed.result().fault
        steps = [] if fault else [(suite, backend) for suite, backend in json.loads(listed.result().output.splitlines()[-1])]
        stepped = {(suite, backend): pool.submit(run_python, STEP_ONCE, suite, backend) for suite, backend in steps}
        findings = [
            *check_versions(),
            *check_names(),
            *check_folder(run_dir),
            *check_cores(config),
            *load,
            *check_memory(config),
            *check_torch(torch.result()),
            *check_ray(ray.result(), config),
            *check_simulators({package: child.result() for package, child in imported.items()}),
            *(
                [Finding("problem", "tasks", f"cannot be listed: {fault}")]
                if fault
                else check_backends({step: child.result() for step, child in stepped.items()}, config)
            ),
        ]
    return findings + _start_if_possible(findings, config, run_dir)


def _start_if_possible(findings: list[Finding], config: ExperimentConfig, run_dir: Path | None) -> list[Finding]:
    """The outcome of a start of the run; nothing where it is known already that it cannot start."""
    if any(finding.level == "problem" for finding in findings):
        return []
    folder = run_dir or Path("runs")
    return list(check_start(start_once(config, folder), folder))


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Two threads for checks in child processes. A signal ends the checks that run, and those that wait are not begun."""
    pool = ThreadPoolExecutor(2)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for pid in family_of(os.getpid()):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        raise
    finally:
        pool.shutdown()


def start_once(config: ExperimentConfig, folder: Path) -> Child:
    """Does what `train` does up to its first update and checkpoint, in a folder beside the run's that is removed again.

    It is the same command in a process of its own, so that what it says is what `train` would say.
    """
    changes = {"total_frames": 1, "evaluation.every_frames": None, "checkpoints.copy_to": None, "curriculum.evidence": "training"}
    with trial_folder(folder) as place, tempfile.TemporaryDirectory() as temporary:
        run = place / f".doctor-{secrets.token_hex(4)}"
        experiment = Path(temporary) / f"{config.name}.yaml"
        experiment.write_text(dump_yaml(override(config, changes)))
        command = "import sys; from mtrl.cli import dispatch; sys.argv[0] = 'train'; sys.exit(dispatch.main(sys.argv[1:]))"
        try:
            return run_python(command, "train", str(experiment), "--run-dir", str(run), seconds=START_SECONDS)
        finally:
            shutil.rmtree(run, ignore_errors=True)


def check_folder(run_dir: Path | None) -> Iterator[Finding]:
    """Whether a run may begin in the folder that it is to have."""
    if run_dir is None:
        return
    if RunLayout(run_dir).config.is_file():
        yield Finding("note", "run directory", f"{run_dir} has a run: train goes on with it by --resume or --auto-resume")
        return
    try:
        if not is_free(run_dir):
            yield Finding("problem", "run directory", f"{run_dir} exists and is not an empty folder; choose another --run-dir")
    except OSError as error:
        yield Finding("problem", "run directory", f"{run_dir} cannot be read: {error.strerror}")


def check_start(child: Child, folder: Path) -> Iterator[Finding]:
    """The outcome of a real start."""
    if child.fault:
        yield Finding("problem", "a start", child.fault.removeprefix("error: "))
    else:
        yield Finding("ok", "a start", f"one update and a checkpoint, written beside {folder}")


def print_backends(needed: str) -> None:
    """Prints as JSON the suite `needed` and the first one of every other family that has a simulator to itself, with each of their
    backends, the fastest first.
    """
    from envs import list_suites, make_suite
    from envs.registry import FAMILIES

    others = [name for name in reversed(list_suites()) if FAMILIES[name.partition("/")[0]].simulator is None]
    suites = {name.partition("/")[0]: name for name in [*others, needed]}
    print(json.dumps([(name, backend) for name in suites.values() for backend in make_suite(name).backends]))


def check_versions() -> Iterator[Finding]:
    """Python and packages against what we ask for, and packages against what each other asks for."""
    conflicts = list(_conflicts(_own_requirements(), "this project"))
    for package in CHECKED_PACKAGES:
        conflicts += _conflicts(_requirements_of(package), package)
    for conflict in conflicts:
        yield Finding("note", "versions", conflict)
    if not (3, 11) <= sys.version_info < (3, 14):
        yield Finding("problem", "python", f"{platform.python_version()} is not supported; use 3.11 to 3.13")
    if not conflicts:
        yield Finding("ok", "versions", "the installed packages fit each other")


def check_names() -> Iterator[Finding]:
    """Whether `envs` and `mtrl` are ours: other distributions install packages of these names."""
    fault = run_python("import envs; assert hasattr(envs, 'make_suite'); print(envs.__path__[0])")
    place = Path(fault.output.strip() or ".")
    if fault.fault or place.resolve().parent != PROJECT_ROOT.resolve():
        yield Finding("problem", "package names", f"the package `envs` is not this project's ({fault.fault or place}); pip uninstall envs")
    else:
        yield Finding("ok", "package names", f"mtrl and envs come from {PROJECT_ROOT}")
    for name in ("envs", "mtrl"):
        if package_version(name):
            yield Finding(
                "note", "package names", f"a foreign distribution {name} {package_version(name)} is installed, too; pip uninstall {name}"
            )


def check_cores(config: ExperimentConfig) -> Iterator[Finding]:
    """Cores that this process may use, against what runners and learners reserve."""
    cores, wanted = usable_cores(), config.wanted_resources()["CPU"]
    runners, learners = config.env_runners.num_env_runners, config.learners.num_learners
    who = f"{runners} runner{'s' * (runners != 1)}" + (f" and {learners} learner{'s' * (learners != 1)}" if learners else "")
    text = f"{cores:g} usable of {os.cpu_count()}; {who} of the run reserve{'s' * (runners + learners == 1)} {wanted:g}"
    if wanted > cores:
        yield Finding("problem", "cores", f"{text}; lower --num-env-runners" + (" or --learners.num-learners" if learners else ""))
    elif not learners and wanted + 1 > cores:
        yield Finding("note", "cores", f"{text}, so that the learner has none for itself and training is slow")
    else:
        yield Finding("ok", "cores", text)


def check_load(seconds: float = LOAD_SECONDS) -> Iterator[Finding]:
    """What others do on this machine's cores, before a check of ours keeps any of them busy."""
    cores, idle = len(own_cores()), idle_seconds()
    if not idle:
        return  # the system does not say
    time.sleep(seconds)
    busy = max(0.0, cores - (idle_seconds() - idle) / seconds)
    text = f"{busy:.1f} of {cores} cores are busy with other work"
    if busy >= 0.5:
        yield Finding("note", "load", f"{text}; training is slower, and its speed no measure of this machine")
    else:
        yield Finding("ok", "load", text)


def check_memory(config: ExperimentConfig) -> Iterator[Finding]:
    """Free memory, and whether Ray's object store fits into /dev/shm."""
    memory = available_memory()
    needed = (1 + config.env_runners.num_env_runners) * GIB  # torch and a simulator take most of 1 GiB in each process
    short = memory < needed
    yield Finding(
        "note" if short else "ok", "memory", f"{_gib(memory)} free" + (f"; the default run may need {_gib(needed)}" if short else "")
    )
    if config.env_runners.num_env_runners == 0:
        return
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    store = _gib(OBJECT_STORE_BYTES)
    if shared < OBJECT_STORE_BYTES:
        text = f"{_gib(shared)} free, but Ray's object store wants {store} and will use slow files in /tmp; in Docker, give --shm-size"
        yield Finding("note", "/dev/shm", text)
    else:
        yield Finding("ok", "/dev/shm", f"{_gib(shared)} free; Ray's object store takes {store}")


def check_torch(child: Child) -> Iterator[Finding]:
    """Torch, GPUs, and whether bfloat16 is computed in hardware."""
    if child.fault:
        yield Finding("problem", "torch", f"cannot be imported: {child.fault}")
        return
    facts = json.loads(child.output.splitlines()[-1])
    if facts["gpus"]:
        yield Finding("ok", "GPU", ", ".join(facts["gpus"]))
    elif Path("/proc/driver/nvidia/version").exists():
        reason = "torch cannot use it" if facts["built_for_cuda"] else "this torch is built for the CPU only"
        yield Finding("note", "GPU", f"there is an NVIDIA driver, but {reason}; the learner runs on the CPU")
    else:
        yield Finding("ok", "GPU", "none; the learner runs on the CPU")
    hardware = "in hardware" if facts["bfloat16"] else "not in hardware; learner.precision auto computes in float32"
    yield Finding("ok", "bfloat16", hardware)


def check_ray(child: Child, config: ExperimentConfig) -> Iterator[Finding]:
    """Whether RLlib can be imported."""
    if not child.fault:
        yield Finding("ok", "ray", "imports")
    elif config.env_runners.num_env_runners:
        yield Finding("problem", "ray", f"cannot be imported: {child.fault}; without it only --num-env-runners 0 works")
    else:
        yield Finding("note", "ray", f"cannot be imported: {child.fault}; runs with --num-env-runners above 0 will not work")


def check_simulators(imported: dict[str, Child]) -> Iterator[Finding]:
    """Whether the packages with the environments can be imported, and what is lost without them."""
    for package, child in imported.items():
        if child.fault:
            yield Finding("note", package, f"cannot be imported: {child.fault}; {SIMULATORS[package]}")
        else:
            yield Finding("ok", package, "imports")


def check_backends(stepped: dict[tuple[str, str], Child], config: ExperimentConfig) -> Iterator[Finding]:
    """Every backend's one step. The default run needs the one that its suite takes."""
    served = [(suite, backend) for suite, backend in stepped if suite == config.suite.name]
    needed = next((step for step in served if config.suite.backend in ("auto", step[1])), None)
    if needed is None:
        yield Finding("problem", "environments", f"nothing steps {config.suite.name}")
    for (suite, backend), child in stepped.items():
        subject = f"{suite.partition('/')[0]} on {backend}"
        if not child.fault:
            yield Finding("ok", subject, f"steps {suite}")
        elif (suite, backend) == needed:
            others = [other for (name, other), result in stepped.items() if name == suite and not result.fault]
            hint = f"; --suite.backend {others[0]} works" if others else ""
            yield Finding("problem", subject, f"{child.fault}{hint}")
        else:
            yield Finding("note", subject, f"will not work: {child.fault}")


def _conflicts(requirements: list[Requirement], owner: str) -> Iterator[str]:
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = package_version(requirement.name)
        if version is None and owner == "this project":
            yield f"{requirement.name} is not installed; {owner} wants {requirement}"
        elif version is not None and not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is installed, but {owner} wants {requirement.specifier}; they may fail together"


def _own_requirements() -> list[Requirement]:
    """The requirements in pyproject.toml: beside the package in a checkout, else in the installed distribution's metadata."""
    project = PROJECT_ROOT / "pyproject.toml"
    if project.is_file():
        return [Requirement(line) for line in tomllib.loads(project.read_text())["project"]["dependencies"]]
    owners = metadata.packages_distributions().get("mtrl", [])
    return [requirement for owner in owners for requirement in _requirements_of(owner)]


def _requirements_of(distribution: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        return []


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
