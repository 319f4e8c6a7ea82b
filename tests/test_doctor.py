"""The doctor: what it finds, and whether a broken package is a line of its report."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mtrl import machine
from mtrl.cli import doctor
from mtrl.cli.advice import Machine, advise
from mtrl.config import ExperimentConfig, load_config, override
from mtrl.machine import Child, Finding
from mtrl.storage.run_directory import RunDirectoryError, new_folder, trial_folder

ROOT = Path(__file__).parents[1]
CONFIG = ExperimentConfig()
GOOD = Child("", None)
STEPPED = {(CONFIG.suite.name, "envpool"): GOOD, (CONFIG.suite.name, "gymnasium"): GOOD, ("toy/three", "gymnasium"): GOOD}


def examined(broken: dict[str, str], tmp_path: Path) -> tuple[int, str]:
    """Exit code and report of a doctor that meets these packages before the installed ones."""
    for package, text in broken.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(tmp_path)!r}); "
        "from mtrl.cli.dispatch import main; sys.exit(main(['doctor']))"
    )
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_broken_packages_are_lines_and_exit_code_1(tmp_path: Path) -> None:
    code, report = examined({"ray": "raise ImportError('libray.so is gone')", "envpool": "raise ImportError('GLIBC')"}, tmp_path)
    assert code == 1
    assert re.search(
        r"problem +ray +cannot be imported: ImportError: libray\.so is gone; without it only --num-env-runners 0 works", report
    )
    assert re.search(r"note +envpool +cannot be imported: ImportError: GLIBC; environments step on gymnasium instead", report)
    assert re.search(r"ok +minigrid on gymnasium +steps minigrid/mt3", report)
    assert "The run minigrid_mt3 cannot start: 1 problem above." in report


def test_what_the_default_run_does_not_need_is_a_note(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "collect_findings", lambda config, folder: [Finding("ok", "a", "b"), Finding("note", "c", "d")])
    assert doctor.examine(CONFIG, Path("runs")) == 0
    out = capsys.readouterr().out
    assert "The run minigrid_mt3 can start." in out and "torch 2." in out
    monkeypatch.setattr(doctor, "collect_findings", lambda config, folder: [Finding("problem", "a", "b")])
    assert doctor.examine(CONFIG, Path("runs")) == 1


def test_only_the_default_runs_backend_is_needed() -> None:
    broken = Child("", "ModuleNotFoundError: No module named 'minigrid'")
    other = STEPPED | {(CONFIG.suite.name, "gymnasium"): broken}
    assert levels(list(doctor.check_backends(other, CONFIG))) == ["ok", "note", "ok"]
    asked = override(CONFIG, {"suite.backend": "gymnasium"})
    assert levels(list(doctor.check_backends(other, asked))) == ["ok", "problem", "ok"]
    assert levels(list(doctor.check_backends({}, CONFIG))) == ["problem"]


def test_cores_that_runners_reserve_and_do_not_have_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4.0)
    for runners, level in ((3, "ok"), (4, "note"), (5, "problem")):
        config = override(CONFIG, {"env_runners.num_env_runners": runners})
        assert levels(list(doctor.check_cores(config))) == [level]
    for learners, level in ((1, "ok"), (2, "problem")):  # which have cores of their own
        config = override(CONFIG, {"env_runners.num_env_runners": 3, "learners.num_learners": learners})
        assert levels(list(doctor.check_cores(config))) == [level]


def test_a_small_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 64 * 2**20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    (memory, shared) = doctor.check_memory(CONFIG)
    assert shared.level == "note" and "0.1 GiB free" in shared.text and "--shm-size" in shared.text
    assert levels(list(doctor.check_memory(override(CONFIG, {"env_runners.num_env_runners": 0})))) == [memory.level]


def test_ray_is_a_note_for_a_run_without_it() -> None:
    broken = Child("", "ImportError: no")
    assert levels(list(doctor.check_ray(broken, CONFIG))) == ["problem"]
    assert levels(list(doctor.check_ray(broken, override(CONFIG, {"env_runners.num_env_runners": 0})))) == ["note"]
    assert levels(list(doctor.check_ray(GOOD, CONFIG))) == ["ok"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ('{"gpus": ["H200"], "bfloat16": true, "built_for_cuda": true}', ["H200", "in hardware"]),
        ('{"gpus": [], "bfloat16": false, "built_for_cuda": false}', ["runs on the CPU", "computes in float32"]),
    ],
)
def test_torch_facts(facts: str, said: list[str]) -> None:
    findings = list(doctor.check_torch(Child(f"a warning\n{facts}\n", None)))
    assert levels(findings) == ["ok", "ok"]
    assert all(text in finding.text for text, finding in zip(said, findings, strict=True))
    assert levels(list(doctor.check_torch(Child("", "it crashed with signal 4")))) == ["problem"]


def test_version_pairs_come_from_the_packages_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"mujoco": "3.4.0", "metaworld": "3.1.1"}
    monkeypatch.setattr(doctor, "package_version", installed.get)
    wanted = [Requirement("mujoco==3.3.0"), Requirement("numpy>=1"), Requirement("pytest>99; extra == 'dev'")]
    assert list(doctor._conflicts(wanted, "metaworld")) == [
        "mujoco 3.4.0 is installed, but metaworld wants ==3.3.0; they may fail together"
    ]
    assert list(doctor._conflicts([Requirement("torch>=2.8")], "this project")) == ["torch is not installed; this project wants torch>=2.8"]


def test_our_own_requirements_are_found() -> None:
    names = {requirement.name for requirement in doctor._own_requirements()}
    assert {"torch", "ray", "gymnasium", "envpool", "minigrid"} <= names


def test_a_foreign_envs_package_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("def make_suite(): ...")
    assert levels(list(doctor.check_names())) == ["ok"]
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = doctor.check_names()
    assert finding.level == "problem" and str(tmp_path) in finding.text


def test_a_crash_is_a_sentence() -> None:
    assert machine.run_python("import os; os.abort()").fault == "it crashed with signal 6"
    assert machine.run_python("raise KeyError('x')").fault == "KeyError: 'x'"


def test_a_broken_backend_names_the_one_that_works() -> None:
    stepped = STEPPED | {(CONFIG.suite.name, "envpool"): Child("", "it crashed with signal 6")}
    (problem,) = [finding for finding in doctor.check_backends(stepped, CONFIG) if finding.level == "problem"]
    assert problem.subject == "minigrid on envpool" and problem.text == "it crashed with signal 6; --suite.backend gymnasium works"


def test_a_child_that_hangs_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CHILD_SECONDS", 0.2)
    child = machine.run_python("import time; time.sleep(60)")
    assert child.fault == "it did not finish within 0.2 s"


def test_a_start_is_what_train_does_and_leaves_nothing(tmp_path: Path) -> None:
    """The same command up to its first checkpoint: it finds what no list of checks has."""
    toy = override(CONFIG, {"suite.name": "toy/three", "env_runners.num_env_runners": 0, "env_runners.slots": 6, "name": "small"})
    (finding,) = doctor.check_start(doctor.start_once(toy, tmp_path / "runs" / "new"), tmp_path)
    assert finding.level == "ok" and not any(tmp_path.rglob("*.yaml"))
    (tmp_path / "file").write_text("")
    (finding,) = doctor.check_start(doctor.start_once(override(toy, {"learner.device": "cuda"}), tmp_path), tmp_path)
    assert finding.level == "problem" and finding.text.startswith("learner.device is cuda")
    (finding,) = doctor.check_start(doctor.start_once(toy, tmp_path / "file" / "run"), tmp_path)
    assert finding.level == "problem" and "cannot write to" in finding.text


def test_a_start_leaves_no_folders_that_were_not_there(tmp_path: Path) -> None:
    with trial_folder(tmp_path / "a" / "b" / "run") as place:
        (place / "trial").mkdir(parents=True)
        (place / "trial").rmdir()
    assert not any(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with trial_folder(tmp_path / "a" / "b" / "run") as place:
        place.mkdir(parents=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and not any((tmp_path / "a").iterdir())


def test_a_folder_that_train_would_refuse_is_a_problem(tmp_path: Path) -> None:
    """Each kind of folder, and train's answer to it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "filled" / "x").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, levels_said in (("new", []), ("empty", []), ("filled", ["problem"]), ("file", ["problem"])):
        assert levels(list(doctor.check_folder(tmp_path / name))) == levels_said
        if levels_said:
            with pytest.raises(RunDirectoryError):
                new_folder(tmp_path / name, "x")
        else:
            new_folder(tmp_path / name, "x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: it")
    assert levels(list(doctor.check_folder(tmp_path / "run"))) == ["note"]


def test_the_load_of_the_machine_is_a_note_where_others_keep_cores_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(machine.own_cores())
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        (found,) = doctor.check_load(1.0)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert found.level == "note" and float(found.text.split()[0]) > 0.5 * cores
    readings = iter([100.0, 100.0 + 1.0 * cores])  # a second later all cores have rested for a second
    monkeypatch.setattr(doctor, "idle_seconds", lambda: next(readings))
    (found,) = doctor.check_load(1.0)
    assert found.level == "ok" and found.text.startswith("0.0 of ")


GIB = 2**30


@pytest.mark.parametrize(
    ("found", "runners", "others"),
    [
        (Machine(1, 8 * GIB, 0, False), 0, {}),
        (Machine(0.5, 8 * GIB, 0, False), 0, {}),
        (Machine(2, 24 * GIB, 0, False), 1, {"learner.precision": "float32", "learner.device": "cpu"}),
        (Machine(2, 1.5 * GIB, 0, False), 0, {}),
        (
            Machine(16, 128 * GIB, 1, True),
            14,
            {"learner.precision": "bfloat16", "learner.device": "cuda", "learner.rollouts_per_update": "auto"},
        ),
        (Machine(64, 16 * GIB, 0, True), 15, {"learner.rollouts_per_update": "auto"}),
    ],
)
def test_advice_fits_the_machine_and_the_experiment(found: Machine, runners: int, others: dict[str, object]) -> None:
    config = override(CONFIG, {"learner.rollouts_per_update": 2})
    values = {each.field: each.value for each in advise(config, found)}
    assert values["env_runners.num_env_runners"] == runners and others.items() <= values.items()
    assert values["env_runners.slots"] == config.env_runners.slots and values["learner.threads"] in (None, config.learner.threads)
    advised = override(config, values)
    assert advised.wanted_resources()["CPU"] <= max(1, found.cores)
    assert ("learner.rollouts_per_update" in values) == (runners >= 4)


def test_doctor_writes_an_experiment_that_train_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "collect_findings", lambda config, folder: [Finding("ok", "a", "b")])
    path = tmp_path / "mine.yaml"
    assert doctor.examine(CONFIG, None, path) == 0
    assert f"python launch.py train {path}" in capsys.readouterr().out
    assert load_config(path).env_runners.num_env_runners == min(machine.whole_cores() - 1, 64)
