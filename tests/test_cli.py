"""The command line: what it accepts, what it says about a fault, exit codes, and what it shows while training."""

import io
import json
import math
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import rich.console
from rich.table import Table
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from envs import Task, TaskSuite, make_suite
from mtrl import signals as signals_module
from mtrl.cli import dispatch as cli
from mtrl.cli import shared
from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.commands import train
from mtrl.cli.commands.evaluate import _whole_names
from mtrl.cli.console import PlainConsole, TerminalConsole
from mtrl.cli.dispatch import main
from mtrl.cli.formatting import amount, duration, short_names, shorten
from mtrl.cli.run_view import RunView
from mtrl.cli.status import Status
from mtrl.cli.tables import wide_console
from mtrl.config import ExperimentConfig, load_config
from mtrl.errors import UserError
from mtrl.machine import PROJECT_ROOT, child_environment
from mtrl.storage.checkpoint import newest_valid
from mtrl.storage.lock import run_lock
from mtrl.storage.run_directory import RunDirectory
from mtrl.training import run as run_module

ROOT = Path(__file__).parents[1]
SHORT = ["--total-frames", "600", "--report-seconds", "60"]


def python(*arguments: str, cwd: Path = ROOT, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "100"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says about the user's fault: one line, exit code 2, nothing on standard output."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(\S+: starting in this process\n)?", out) and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of toy.yaml, not to be changed."""
    directory = tmp_path_factory.mktemp("runs") / "toy"
    assert main(["train", "toy", "--run-dir", str(directory), *SHORT]) == 0
    return directory


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy", symlinks=True))


# What a command line means


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "no command 'trian'; there are train, evaluate, sweep, search, compare-alone, report, dashboard, export"),
        (["train", "minigrid_mt33"], "no experiment minigrid_mt33: neither a file nor a name in configs/; did you mean minigrid_mt3?"),
        (["train", "no/such.yaml"], "no experiment no/such.yaml"),
        (["train", "toy", "mt3"], "'mt3' is one argument too many"),
        (["train", "toy", "--learner.discont", "0.9"], "there is no option --learner.discont; did you mean --learner.discount?"),
        (["train", "toy", "--learner.lamda", "0.9"], "did you mean --learner.lambda?"),
        (["train", "toy", "--total_framse=9"], "there is no option --total_framse; did you mean --total-frames?"),
        (["train", "toy", "--xyzzy"], "there is no option --xyzzy; --help lists them"),
        (["train", "toy", "--total-frames"], "Missing value for argument '--total-frames'"),
        (["train", "toy", "--total-frames", "--seed", "3"], "Missing value for argument '--total-frames'"),
        (["train", "toy", "--total-frames", "lots"], "total_frames: must be a valid integer, got 'lots'"),
        (["train", "toy", "--total-frames", "0"], "total_frames: must be greater than or equal to 1, got 0"),
        (["train", "toy", "--learner.discount", "1.5"], "learner.discount: must be less than or equal to 1, got 1.5"),
        (["train", "toy", "--learner.precision", "half"], "learner.precision: must be 'auto', 'float32' or 'bfloat16', got 'half'"),
        (["train", "toy", "--learner.normalize-advantages", "maybe"], "normalize_advantages: must be a valid boolean, got 'maybe'"),
        (["train", "toy", "--seed", "-1", "--env-runners.slots", "0"], "got -1; env_runners.slots: must be greater than or equal to 1"),
        (["train", "toy", "--suite.name", "tyo/three"], "there is no suite 'tyo/three'; did you mean toy/three?"),
        (["train", "toy", "--suite.name", "toy/thre"], "did you mean three?"),
        (["train", "toy", "--suite.name", "toy/coridor,cue"], "toy has no task 'coridor'; did you mean corridor?"),
        (["train", "toy", "--suite.backend", "envpool"], "suite.backend is envpool, but toy/three can only run on gymnasium"),
        (["train", "toy", "--env-runners.slots", "2"], "env_runners.slots is 2, but toy/three has 3 tasks"),
        (["train", "toy", "--model.experts", "900"], "model.experts is 900, but the experts' features have"),
        (["train", "toy", "--curriculum.scheduler", "unifrom"], "curriculum.scheduler: no scheduler 'unifrom'; known are uniform"),
        (
            ["train", "toy", "--model.heads", "singel"],
            "no head 'singel'; known are multi, single, and module:Class",
        ),
        (["train", "--resume", "no/such/run"], "there is no run directory no/such/run"),
        (["train", "--resume", "configs"], "configs is not a run directory: it has no config.yaml"),
        (["train", "toy", "--resume", "runs/x"], "leave out CONFIG (toy)"),
        (["train", "--resume", "runs/x", "--run-dir", "runs/y"], "leave out --run-dir runs/y"),
        (["train", "toy", "--auto-resume"], "--auto-resume needs --run-dir"),
        (["evaluate"], "evaluate needs the directory of a run"),
        (["evaluate", "no/such/run"], "there is no run directory no/such/run"),
        (["evaluate", "configs"], "configs is not a run directory"),
        (["evaluate", "runs/x", "--episodes", "0"], "--episodes: must be a whole number of 1 or more, got '0'"),
        (["evaluate", "runs/x", "--episodes", "ten"], "--episodes: must be a whole number of 1 or more, got 'ten'"),
        (["evaluate", "runs/x", "--episode", "1"], "there is no option --episode; did you mean --episodes?"),
        (["evaluate", "runs/x", "--actions", "gredy"], "--actions: must be one of sampled, greedy, got 'gredy'; did you mean greedy?"),
        (["evaluate", "runs/x", "--backend", "gym"], "--backend: must be one of envpool, gymnasium, got 'gym'; did you mean gymnasium?"),
        (["bench"], "bench: must be one of throughput, peers, learner, gpu, gate, curriculum, transfer, soak, chaos, scaling, got ''"),
        (["bench", "thruput"], "got 'thruput'; did you mean throughput?"),
        (["doctor", "--fast"], "there is no option --fast"),
        (["suites", "minigrid"], "'minigrid' is one argument too many"),
    ],
)
def test_a_fault_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    assert said in complaint(arguments, capsys)
    assert not (tmp_path / "runs").exists()


def options(*arguments: str) -> ExperimentConfig:
    return parse_with_experiment(train.TrainOptions(), arguments, "train", "", train._starting_experiment)[1]


def test_overrides_have_the_types_of_their_fields() -> None:
    config = options(
        "toy",
        *("--total-frames", "3e6", "--seed=7", "--name", "12", "--learner.discount", ".9", "--learner.actor.learning_rate", "1e-4"),
        *("--learner.actor.max-grad-norm", "40", "--learner.critic.max-grad-norm", "null", "--learner.threads", "None"),
        *("--learner.normalize-advantages", "false", "--model.trunks", "shared", "--learner.lambda_", "0.5", "--num-env-runners", "3"),
    )
    assert (config.total_frames, config.seed, config.name, config.learner.discount) == (3_000_000, 7, "12", 0.9)
    assert (config.learner.actor.learning_rate, config.learner.actor.max_grad_norm, config.learner.critic.max_grad_norm) == (
        1e-4,
        40.0,
        None,
    )
    assert (config.learner.threads, config.learner.normalize_advantages, config.model.trunks) == (None, False, "shared")
    assert (config.learner.lambda_, config.env_runners.num_env_runners) == (0.5, 3)
    assert config.suite.name == "toy/three", "what is not overridden comes from the file"


def test_the_default_experiment_is_mt3() -> None:
    assert options() == load_config(ROOT / "configs" / "minigrid_mt3.yaml")


def test_a_path_and_a_bare_name_mean_the_same_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert shared.find_config(str(ROOT / "configs" / "toy.yaml")) == shared.find_config("toy") == shared.find_config("toy.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text("seed: 5")
    assert options("toy.yaml").seed == 5, "a file that exists goes before ours"


def test_an_installed_package_brings_its_experiments_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "mtrl" / "_configs"
    installed.mkdir(parents=True)
    (installed / "mine.yaml").write_text("")
    monkeypatch.setattr(shared, "PACKAGE", installed.parent)
    assert shared.find_config("mine") == installed / "mine.yaml"


def test_overrides_are_checked_with_the_file_they_change(tmp_path: Path) -> None:
    """The line is read against the default experiment first, whose rules must not decide."""
    path = tmp_path / "wide.yaml"
    path.write_text("learner: {rho_bar: 3, c_bar: 2}")
    assert options(str(path), "--learner.c-bar", "2.5").learner.c_bar == 2.5  # above the default rho_bar, below the file's
    with pytest.raises(UserError, match="V-trace needs rho_bar >= c_bar"):
        options(str(path), "--learner.rho-bar", "1.5")


# Front door


def test_help_is_quick_to_import_and_shows_the_files_values() -> None:
    code = (
        "import sys\nfrom mtrl.cli.dispatch import main\n"
        "try:\n    main(['train', 'toy', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'ray', 'envs', 'gymnasium', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "--learner.actor.learning-rate NUMBER" in done.stdout
    assert "(default: toy/three)" in done.stdout and "[CONFIG]" in done.stdout
    assert "Probability" not in done.stdout and "None" not in done.stdout


def test_launch_shows_the_commands_and_passes_the_exit_code_on(tmp_path: Path) -> None:
    shown = python(str(ROOT / "launch.py"), cwd=tmp_path)
    assert shown.returncode == 0 and all(command in shown.stdout for command in cli.COMMANDS)
    failed = python(str(ROOT / "launch.py"), "train", "nosuch", cwd=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: no experiment nosuch") and "Traceback" not in failed.stderr


def test_another_envs_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from mtrl.cli.dispatch import main; sys.exit(main(['suites']))"
    done = python("-c", code)
    assert done.returncode == 2 and "is not this project's" in done.stderr and str(tmp_path) in done.stderr


def test_errors_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: list[str], program: str) -> int:
        raise ValueError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "suites", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["suites"])


def test_an_interrupt_before_training_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str], program: str) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "suites", interrupted)
    assert main(["suites"]) == 130


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["suites"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "launch.py", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) in (1, 128 + signal.SIGPIPE)  # rich ends the program itself, with 1
    assert process.stderr.read() == ""


def test_suites_lists_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"minigrid/mt3 +3 +envpool, gymnasium +image 7×7×3 uint8 +7 actions", out)
    assert all(name in out for name in make_suite("minigrid/mt7").names)
    assert re.search(r"dmc/mt30 +19 +envpool, gymnasium +\d+ kinds +\d+ kinds", out)


def test_suites_counts_the_tasks_of_each_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites", "--count"]) == 0
    rows = dict(re.findall(r"^(\w+) +([\d,]+) +\S", capsys.readouterr().out, re.MULTILINE))
    assert rows["metaworld"] == "50"
    assert rows["atari"] == "57"
    assert rows["dmc"] == "51"
    assert sum(int(count.replace(",", "")) for count in rows.values()) >= 1000


# Training


def test_training_in_this_process_never_imports_ray(tmp_path: Path) -> None:
    arguments = ["train", "toy", "--run-dir", "run", *SHORT]
    code = f"import sys; from mtrl.cli.dispatch import main; code = main({arguments!r}); assert 'ray' not in sys.modules; sys.exit(code)"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["toy/three: starting in this process", "toy: 3 tasks of toy/three, 600 frames, into run"]
    assert re.match(r"\d+ of 600 frames \(100.0%\), [\d,]+ frames/s, 0:00 left, score ", lines[2])
    assert lines[-1].endswith("evaluate run")


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["suites"], ("torch", "ray")),
        (["report", "."], ("torch", "ray", "envs")),
        (["evaluate", ".", "--episodes", "1", "--workers", "1"], ("ray",)),
        (["explain", "."], ("ray",)),
        (["export", "."], ("ray",)),
        (["check", "toy"], ("ray",)),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_import_no_large_package_that_they_do_not_use(arguments: list[str], unused: tuple[str, ...], trained: Path) -> None:
    """Ray takes a second to import, PyTorch two."""
    copy = trained.parent / f"copy-for-{arguments[0]}"
    shutil.copytree(trained, copy)
    code = f"""
import sys
from mtrl.cli.dispatch import main
code = main({arguments!r})
assert not code, code
assert not (found := set({unused!r}) & set(sys.modules)), found
"""
    done = python("-c", code, cwd=copy)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(copy)


def test_a_run_leaves_its_experiment_metrics_and_policy(trained: Path) -> None:
    assert load_config(trained / "config.yaml").total_frames == 600
    assert json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["summary/frames"] >= 600
    assert (trained / "checkpoints" / "latest").exists() and any((trained / "policy").iterdir())


def test_a_run_is_not_overwritten(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "metrics.jsonl").read_text()
    assert "is not an empty folder" in complaint(["train", "toy", "--run-dir", str(trained), *SHORT], capsys)
    assert (trained / "metrics.jsonl").read_text() == before


def test_resume_goes_on_with_the_runs_own_experiment(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(copy), "--total-frames", "1200"]) == 0
    assert "resumed" in capsys.readouterr().out
    assert load_config(copy / "config.yaml").total_frames == 1200, "the next resume knows the new goal"
    frames = [json.loads(line)["summary/frames"] for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert frames == sorted(frames) and 600 <= frames[0] < 1200 <= frames[-1]


def test_a_finished_run_says_what_would_go_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(trained)]) == 2
    assert "give a larger --total-frames" in capsys.readouterr().err


def test_what_a_checkpoint_depends_on_cannot_change(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(["train", "--resume", str(trained), "--model.experts", "3"], capsys)
    assert "model.experts cannot change" in said and "has 2, the new experiment 3" in said


def test_the_curriculum_can_change(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is known of the tasks stays, the new rules decide, and their decisions are a log of their own."""
    before = RunDirectory.open(copy)
    last = list(before.read_decisions())[-1]
    arguments = ["--curriculum.scheduler", "fixed", "--curriculum.options", '{"weights": {"cue": 3}}', "--curriculum.floor", "0"]
    assert main(["train", "--resume", str(copy), "--total-frames", "1200", *arguments]) == 0
    assert "fixed follows uniform and begins anew" in capsys.readouterr().out
    decisions = list(RunDirectory.open(copy).read_decisions())
    [aside] = copy.glob("curriculum-until-*.jsonl")
    assert aside.stem == f"curriculum-until-{decisions[0].frames}" and 600 <= decisions[0].frames < 1200
    assert (decisions[0].evidence.episodes >= last.evidence.episodes).all() and last.evidence.episodes.any()
    assert decisions[0].shares.max() == pytest.approx(0.6)
    assert main(["explain", str(copy)]) == 0
    assert "begins at a change of tasks or curriculum" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--resume", str(copy), "--total-frames", "1800"]) == 0
    assert "follows" not in capsys.readouterr().out, "it has changed once"


def test_other_tasks_are_refused_by_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(trained), "--suite.name", "toy/cue,corridor", "--total-frames", "9000"]) == 2
    said = capsys.readouterr().err
    assert "corridor, constant, cue" in said and "cue, corridor" in said


def test_a_damaged_checkpoint_is_a_sentence(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (copy / "checkpoints").glob("*/*"):
        file.write_bytes(file.read_bytes()[:-4])
    assert main(["train", "--resume", str(copy), "--total-frames", "9000"]) == 2
    assert re.fullmatch(r"error: .*\n", capsys.readouterr().err)


def test_auto_resume_begins_goes_on_and_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "toy", "--run-dir", str(tmp_path / "run"), "--auto-resume", *SHORT]
    assert main(command) == 0
    assert "resumed" not in capsys.readouterr().out
    assert main([*command, "--total-frames", "900"]) == 0
    assert "resumed" in capsys.readouterr().out
    assert main([*command, "--total-frames", "900"]) == 0, "a job that is started once too often is no failure"
    assert "nothing to do" in capsys.readouterr().out


def test_a_run_that_is_being_trained_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (copy / "metrics.jsonl").read_text()
    with run_lock(copy):
        said = complaint(["train", "--resume", str(copy), "--total-frames", "1200"], capsys)
    assert f"{copy} is being trained by process {os.getpid()} of" in said and (copy / "metrics.jsonl").read_text() == before
    assert main(["train", "--resume", str(copy), "--total-frames", "1200"]) == 0, "whoever has ended holds nothing"


def obey_hangups() -> None:
    """In a new process: the tests themselves may have been started under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),  # the suite closes a terminal
    ],
)
def test_a_signal_saves_and_ends_with_its_code(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "train", "toy", "--run-dir", "run", "--total-frames", "1e9"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=obey_hangups)
    assert process.stdout is not None
    for line in process.stdout:  # until the first report
        if "frames/s" in line:
            break
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)  # `timeout` sends it to the process, and then to its group
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err
    assert (tmp_path / "run" / "checkpoints" / "latest").exists() and "train --resume run" in out


@pytest.mark.parametrize("mebibytes", [350, *(pytest.param(limit, marks=pytest.mark.slow) for limit in range(450, 800, 50))])
def test_too_little_memory_is_a_sentence(mebibytes: int, tmp_path: Path) -> None:
    """Wherever it runs out: in PyTorch's libraries, in its allocator, or in Python. Code in C may end the process in its own words."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes * 2**20, mebibytes * 2**20))

    command = [sys.executable, str(ROOT / "launch.py"), "train", "--num-env-runners", "0", "--total-frames", "9000"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], capture_output=True, text=True, timeout=120, preexec_fn=limit)
    aborted = done.returncode in (-signal.SIGABRT, 127) and re.search("bad_alloc|cannot allocate memory", done.stderr)
    assert aborted or done.returncode in ((2,) if mebibytes == 350 else (0, 2)), done.stderr
    if done.returncode == 2:
        assert re.fullmatch(r"(warning: .*\n)*error: .+\n", done.stderr), done.stderr


def test_a_thread_that_cannot_be_started_is_a_sentence() -> None:
    """In the words of Python, which this asks for one with too large a stack, and of C++."""
    with pytest.raises(RuntimeError) as error:
        before = threading.stack_size(2**46)
        try:
            threading.Thread(target=print).start()
        finally:
            threading.stack_size(before)
    for cause in (error.value, RuntimeError("Resource temporarily unavailable")):
        assert (cli._of_the_machine(cause) or "").startswith("no thread can be started")


def test_an_error_that_nobody_can_read_keeps_its_exit_code() -> None:
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, str(ROOT / "launch.py"), "train", "nosuch"], stderr=full, timeout=60).returncode == 2


def test_one_request_is_not_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal ends the process at once, unless it comes so soon that it belongs to the first."""
    with run_module._signals([]) as received:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        monkeypatch.setattr(signals_module, "REPEAT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_a_library_has_swallowed_ends_the_run(tmp_path: Path) -> None:
    """While Ray starts, an exception that a signal's handler raises can be lost."""
    code = (
        "import signal, sys\n"
        "from mtrl.cli import dispatch\n"
        "from mtrl.training import trainer\n"
        "build = trainer.build_trainer\n"
        "def swallowing(config):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    except BaseException:\n"
        "        return build(config)\n"
        "trainer.build_trainer = swallowing\n"
        "dispatch.entry_point()\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "train",
        "toy",
        "--num-env-runners",
        "0",
        "--total-frames",
        "1e9",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 143, done.stdout + done.stderr
    assert newest_valid(tmp_path / "run" / "checkpoints")[0] is not None


def test_a_reader_that_goes_away_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "launch.py"),
        "train",
        "toy",
        "--run-dir",
        "run",
        "--total-frames",
        "1e9",
        "--report-seconds",
        "0.5",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141 and process.stderr.read() == ""
    process.stderr.close()
    assert newest_valid(tmp_path / "run" / "checkpoints")[0] is not None


def test_a_terminal_that_is_closed_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """The kernel sends SIGHUP to the session, and whatever is printed from then on fails."""
    command = f"exec {sys.executable} {ROOT / 'launch.py'} train toy --run-dir {tmp_path / 'run'} --total-frames 1e9 --report-seconds 0.5"
    pid, terminal = pty.fork()
    if pid == 0:
        obey_hangups()
        os.execvp("sh", ["sh", "-c", command])
    metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < end:
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert newest_valid(tmp_path / "run" / "checkpoints")[0] is not None


def test_evaluate_plays_and_shows_scores(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(copy), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"constant +1\.00 \(0\.\d\d – 1\.00\) +1\.00 \(0\.22 – 1\.00\) +2 +10 *\n", out) and "toy-v1, but episodes 2" in out
    assert json.loads(next((copy / "evaluation").rglob("results.json")).read_text())["tasks"]["cue"]["n"] == 2


def test_an_unknown_checkpoint_is_a_sentence(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no checkpoint '7'" in complaint(["evaluate", str(trained), "--checkpoint", "7"], capsys)


# What is shown


def suite_of(num_tasks: int) -> TaskSuite:
    toy = make_suite("toy/three")
    words = ("press", "button-press-topdown", "hand", "peg-insert-side", "door")
    tasks = tuple(Task(f"family-{words[index % 5]}-{index:02}-v3", toy.tasks[0].make_env) for index in range(num_tasks))
    return TaskSuite("family/all", tasks, toy.observation_space, toy.action_space, toy.adapt)


def view_of(num_tasks: int) -> RunView:
    view = RunView(ExperimentConfig(), suite_of(num_tasks), Path("runs/minigrid_mt3-20260101-120000"))
    metrics = {"summary/frames": 1.5e6, "summary/frames_per_second": 12345.0, "summary/score_mean": 0.512, "summary/policy_lag": 1.25}
    for index, name in enumerate(view.suite.names[1:], 1):
        metrics |= {f"tasks/{name}/score": index / 100, f"tasks/{name}/episodes": 1000.0 * index, f"tasks/{name}/share_trained": 0.25}
    view.update(metrics)
    return view


def rendered(view: RunView, width: int, height: int) -> list[str]:
    console = rich.console.Console(record=True, width=width, height=height, file=io.StringIO())
    console.print(Status(view))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 24), (120, 40), (200, 60)])
@pytest.mark.parametrize("num_tasks", [1, 3, 10, 50])
def test_the_status_block_fits_and_shows_every_task(num_tasks: int, width: int, height: int) -> None:
    lines = rendered(view_of(num_tasks), width, height)
    assert max(map(len, lines)) <= width and len(lines) < height
    text = "\n".join(lines)
    assert "1.50 M / 6.00 M frames" in text and "25%" in text and "12,345 frames/s" in text and "6:04 left" in text
    assert "mean score 0.512" in text and "policy lag 1.2 updates" in text
    assert [f"{index / 100:.2f}" for index in range(1, num_tasks)] == sorted(re.findall(r"(?<=  )0\.\d\d(?!\d)", text))
    assert set(lines[4].split()) <= {"task", "score", "episodes", "share"}, "nothing is cut off"
    assert all(f"{index:02}" in text for index in range(num_tasks)), "the ends of the names tell the tasks apart"


def test_a_row_shows_score_episodes_and_share() -> None:
    (row,) = [line for line in rendered(view_of(3), 80, 24) if "hand-02" in line]
    assert re.fullmatch(r"hand-02 .* 0\.02 +2000 +25% *", row)
    (unknown,) = [line for line in rendered(view_of(3), 80, 24) if "press-00" in line]
    assert re.fullmatch(r"press-00 +– +– +– *", unknown)


def test_tasks_without_an_episode_are_counted_and_figures_stay_until_replaced() -> None:
    view = view_of(3)
    assert "0.512 (1 task without an episode)" in "\n".join(rendered(view, 100, 24))
    view.update({"summary/frames": 2e6, f"tasks/{view.suite.names[0]}/episodes": 1.0})
    text = "\n".join(rendered(view, 100, 24))
    assert "without" not in text and "2.00 M / 6.00 M" in text and "12,345 frames/s" in text


def test_bars_are_as_long_as_the_scores() -> None:
    view = view_of(3)
    name = view.suite.names[1]
    lengths = []
    for score in (0.0, 0.25, 0.5, 1.0, 7.0):
        view.update({f"tasks/{name}/score": score})
        (row,) = [line for line in rendered(view, 100, 24) if line.startswith("button")]
        lengths.append(row.count("━"))
    assert lengths[0] == 0 and lengths[3] == lengths[4] == 40
    assert lengths[1:3] == [10, 20]


def test_a_window_that_is_too_small_says_how_many_tasks_it_hides() -> None:
    lines = rendered(view_of(50), 60, 14)
    assert len(lines) < 14 and max(map(len, lines)) <= 60
    shown = sum(len(re.findall(r"-\d\d", line)) for line in lines[4:])
    assert f"and {50 - shown} more tasks" in lines[-1] and shown > 10


def test_tasks_that_are_left_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of(3)
    quarantined = f"tasks/{view.suite.names[1]}/quarantined"
    before = rendered(view, 60, 14)
    view.update({quarantined: 1.0})
    lines = rendered(view, 60, 14)
    assert len(lines) == len(before) + 1 and max(map(len, lines)) <= 60
    assert any(line.startswith("left out, since their environments keep failing") for line in lines)
    assert "left out: " in view.line() and "left out: " in view.farewell("x")
    view.update({quarantined: 0.0})
    assert rendered(view, 60, 14) == before and "left out" not in view.line()


def test_the_block_is_drawn_and_leaves_the_next_command(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = TerminalConsole(rich.console.Console(file=stream, force_terminal=True, width=100, height=30), "python launch.py")
    (tmp_path / "checkpoints" / "latest").mkdir(parents=True)
    console.start(ExperimentConfig(), suite_of(3), tmp_path)
    console.update({"summary/frames": 6e6, "summary/score_mean": 0.75})
    console.message("warning: [not markup]")
    console.close()
    console.close()
    out = stream.getvalue()
    assert "0.750" in out and "warning: [not markup]" in out
    assert out.count(f"python launch.py evaluate {tmp_path}") == 1 and "--resume" not in out


def test_an_unfinished_run_is_told_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints" / "latest").mkdir(parents=True)
    console = PlainConsole("python launch.py")
    console.start(ExperimentConfig(), suite_of(3), tmp_path)
    console.update({"summary/frames": 3e6})
    console.close()
    assert f"python launch.py train --resume {tmp_path}" in capsys.readouterr().out


def test_evaluations_without_a_published_score_show_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    common = ["--num-env-runners", "0", "--total-frames", "300", "--env-runners.slots", "6"]
    assert main(["train", "--suite.name", "gym/CartPole-v1", *common, "--run-dir", run]) == 0
    assert main(["evaluate", run, "--episodes", "2"]) == 0
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("task"))
    assert head.split() == ["task", "score", "success", "return", "episodes", "length"]


def test_other_tasks_do_not_keep_the_name_of_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--num-env-runners", "0", "--total-frames", "300", "--env-runners.slots", "6"]
    arguments = ["--suite.name", "gym/CartPole-v1", "--model.freeze-experts", "true", *common]
    assert main(["train", *arguments, "--run-dir", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "gym_CartPole-v1: 1 task of gym/CartPole-v1" in out and load_config(tmp_path / "a" / "config.yaml").name == "gym_CartPole-v1"
    assert "freeze_experts without --init-experts" in out
    assert main(["train", "--suite.name", "toy/three", "--name", "mine", *common, "--run-dir", str(tmp_path / "b")]) == 0
    assert load_config(tmp_path / "b" / "config.yaml").name == "mine"


def test_hyperparameters_are_shown_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", "toy", "--run-dir", str(run), *SHORT]) == 0
    assert main(["train", "--resume", str(run), "--total-frames", "1200"]) == 0
    starts = []
    for file in run.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(file)).Load():
            starts += [value.metadata.plugin_data.content for value in event.summary.value if value.tag == "_hparams_/session_start_info"]
    assert len(starts) == 1
    fields = HParamsPluginData.FromString(starts[0]).session_start_info.hparams
    assert fields["learner.discount"].number_value == 0.99 and fields["suite.name"].string_value == "toy/three"


def test_a_word_behind_help_finds_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--help", "entropy"])
    out = capsys.readouterr().out
    assert end.value.code in (0, None) and "--learner.entropy-decay true|false (default: true)" in out
    heads = [line for line in out.splitlines() if line.startswith("--")]
    assert 2 <= len(heads) <= 12 and not any("slots" in head for head in heads)
    with pytest.raises(SystemExit):
        main(["train", "toy", "--help", "teacher_student"])
    assert "--curriculum.scheduler" in capsys.readouterr().out, "names of choices are found, too"
    with pytest.raises(SystemExit):
        main(["train", "--help", "profiler"])
    assert "--profile\n    Begin with a few updates" in capsys.readouterr().out, "an option of the command itself"
    with pytest.raises(SystemExit):
        main(["search", "--help", "method"])
    assert "--method\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["dashboard", "--help", "port"])
    assert "--port\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help", "nosuchword"])
    assert "no option has the word 'nosuchword'" in capsys.readouterr().out


def test_help_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(re.sub("[│\\s]+", " ", capsys.readouterr().out).split())
    for choice in ("teacher_student", "dselect_k", "gradnorm", "aligned_mtl"):
        assert choice in out
    assert "SCHEDULERS" not in out and "GATES" not in out


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sucess_gap", "did you mean success_gap?"),
        ("no_module_at_all:Rule", "no_module_at_all cannot be imported (ModuleNotFoundError"),
        ("mtrl.curriculum.schedulers.smt:SMTT", "has no class 'SMTT'; did you mean SMT?"),
    ],
)
def test_code_that_is_not_there_is_one_sentence(value: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in complaint(["train", "toy", "--curriculum.scheduler", value, "--run-dir", str(tmp_path / "run"), *SHORT], capsys)


@pytest.mark.parametrize("call", ["breakpoint()", pytest.param("import pdb; pdb.set_trace()", marks=pytest.mark.slow)])
def test_a_debugger_gets_the_terminal_for_itself(tmp_path: Path, call: str) -> None:
    """In a real terminal: the prompt stands, in the frame of the breakpoint, and nothing is drawn over it or over what is typed."""
    (tmp_path / "stopping.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n\nstopped = []\n\n"
        "class Stopping(CartPoleEnv):\n    def step(self, action):\n        if not stopped:\n            stopped.append(1)\n"
        f"            secret = 6 * 7\n            {call}\n        return super().step(action)\n\n"
        "gymnasium.register('Stopping-v0', Stopping, max_episode_steps=50)\n"
    )
    command = [sys.executable, str(ROOT / "launch.py"), "train", "--suite.name", "gym/stopping:Stopping-v0", "--num-env-runners", "0"]
    command += ["--total-frames", "2000", "--report-seconds", "0.2", "--run-dir", str(tmp_path / "run"), "--suite.env-workers", "0"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="40", PYTHONPATH=str(tmp_path))
        os.execv(sys.executable, command)
    seen = read_until(terminal, b"(Pdb) ")
    assert b"mean score" in seen, "the block was there before"
    time.sleep(2.5)  # the block was drawn anew every second
    os.write(terminal, b"p secret\n")
    answer = read_until(terminal, b"(Pdb) ")
    assert b"42" in answer and b"mean score" not in answer and b"\x1b[2K" not in answer
    os.write(terminal, b"c\n")
    rest = read_until(terminal, b"to evaluate:")
    assert b"of 2,000 frames" in rest, "reports go on as lines"
    os.waitpid(child, 0)


def read_until(terminal: int, wanted: bytes, seconds: float = 60.0) -> bytes:
    """What a terminal shows until `wanted` has come."""
    seen, end = b"", time.monotonic() + seconds
    while wanted not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # the child has gone
                assert wanted in seen, seen
    return seen


def test_returns_are_shown_where_the_score_says_little(capsys: pytest.CaptureFixture[str]) -> None:
    view = RunView(ExperimentConfig(), make_suite("gym/Acrobot-v1"), Path("run"))
    assert "return" not in view.line()
    view.update({"summary/frames": 5.0, "tasks/Acrobot-v1/score": 0.0, "tasks/Acrobot-v1/return": -431.25})
    assert "Acrobot-v1 0.00 return -431.2" in view.line()
    assert any("return" in line for line in rendered(view, 100, 20)) and any("-431.2" in line for line in rendered(view, 100, 20))
    known = RunView(ExperimentConfig(), make_suite("minigrid/mt3"), Path("run"))
    known.update({f"tasks/{name}/return": 3.0 for name in known.suite.names})
    assert "return" not in known.line()


def test_plain_lines_name_the_weakest_of_many_tasks() -> None:
    view = view_of(50)
    assert "lowest: button-press-topdown-01 0.01, hand-02 0.02, " in view.line() and "\n" not in view.line()
    assert len(view.line()) < 300
    assert "press-00 –, button-press-topdown-01 0.01, hand-02 0.02" in view_of(3).line()


def test_names_lose_what_they_share_but_stay_different() -> None:
    assert short_names(("MiniGrid-A-v0", "MiniGrid-B-C-v0")) == ["A", "B-C"]
    assert short_names(("push-v3", "push-wall-v3")) == ["push", "push-wall"]
    assert short_names(("push-v3",)) == ["push-v3"]
    assert shorten("button-press-topdown", 9) == "butt…down" and shorten("door", 9) == "door"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (9999.0, "9999"), (12_345.0, "12.3 k"), (95e4, "950 k"), (1.5e6, "1.50 M"), (2e9, "2.00 G")]
)
def test_amounts(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "0:05"), (392.0, "6:32"), (3723.0, "1:02:03"), (277_500.0, "3 d 05:05"), (math.nan, "–")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_profile_says_where_a_frames_time_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["train", "debug_1gpu", "--profile", "--run-dir", str(tmp_path / "run"), "--total-frames", "2500", "--env-runners.slots", "6"]
    )
    said = capsys.readouterr().out
    assert code == 0
    spent = {name: float(value) for name, value in re.findall(r"^([a-z ]+?) +([\d.]+) µs", said, re.M)}
    parts = ("environments", "policy in the runners", "learner", "everything else")
    assert sum(spent[part] for part in parts) == pytest.approx(spent["a frame"], abs=0.3) and min(spent.values()) > 0
    events = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text())["traceEvents"]
    assert any("aten::" in event.get("name", "") for event in events)
    assert "Self CPU" in (tmp_path / "run" / "profile" / "operations.txt").read_text()
    assert "leave it out" in complaint(["train", "--profile", "--resume", str(tmp_path / "run")], capsys)


def test_memory_is_the_machines_at_any_time(monkeypatch, capsys):
    def run_training(arguments: list[str], program: str) -> int:
        raise MemoryError

    monkeypatch.setitem(cli.COMMANDS, "suites", run_training)
    assert main(["suites"]) == 2 and capsys.readouterr().err.startswith("error: out of memory (MemoryError) (MTRL_TRACEBACK=1")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(13, "Permission denied", "/somewhere"),
            "error: Permission denied: /somewhere (MTRL_TRACEBACK=1 shows the traceback)\n",
        ),
        (OSError(28, "No space left on device"), "error: No space left on device (MTRL_TRACEBACK=1"),
    ],
)
def test_what_a_machine_lacks_is_a_sentence_until_training_begins(error, said, monkeypatch, capsys):
    def fail(arguments: list[str], program: str) -> int:
        raise error

    def run_training(arguments: list[str], program: str) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "suites", fail)
    assert main(["suites"]) == 2 and capsys.readouterr().err.startswith(said)
    monkeypatch.setitem(cli.COMMANDS, "suites", run_training)
    with pytest.raises(type(error)):
        main(["suites"])
    monkeypatch.setitem(cli.COMMANDS, "suites", fail)
    monkeypatch.setenv("MTRL_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["suites"])


def test_a_fault_of_ours_says_where_to_report_it(tmp_path):
    code = (
        "import sys; sys.argv = ['launch.py', 'suites']\n"
        "from mtrl.cli import dispatch\n"
        "dispatch.COMMANDS['suites'] = lambda arguments, program: 1 / 0\n"
        "dispatch.entry_point()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and "Please report it" in done.stderr.splitlines()[-1]


def test_the_help_for_a_word_has_the_values_of_the_experiment(capsys):
    """minigrid_mt3 has eight passes and a trace decay of 0.95, the classes one pass and 1."""
    for words, expected in ((["epochs"], "--learner.epochs INT (default: 8)"), (["lambda"], "--learner.lambda_ NUMBER (default: 0.95)")):
        with pytest.raises(SystemExit):
            main(["train", "--help", *words])
        assert expected in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "toy", "--help", "report_seconds"])
    assert "no option has" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "debug_1gpu", "--help", "slots"])
    assert f"--env-runners.slots INT (default: {load_config('configs/debug_1gpu.yaml').env_runners.slots})" in capsys.readouterr().out


def test_tables_are_not_cut_on_narrow_terminals(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    table = Table(box=None)
    for name in ("a long name of a column", "another one that is long", "the figure"):
        table.add_column(name, no_wrap=True)
    table.add_row("x" * 30, "y" * 30, "0.123")
    wide_console(table).print(table)
    assert "0.123" in capsys.readouterr().out


def test_tasks_may_be_named_as_the_status_block_shows_them():
    suite = "gym/CartPole-v1,Acrobot-v1".replace("Acrobot-v1", "CartPole-v0")
    assert _whole_names(["CartPole-v0", "v1", "nobody"], suite) == ["CartPole-v0", "CartPole-v1", "nobody"]


@pytest.mark.parametrize("runners", ["0", "1"])
def test_the_first_line_is_printed_before_large_packages_are_imported(runners):
    """Importing PyTorch takes two seconds, and a person wants to see that the command was understood."""
    code = f"""
import builtins, sys
from mtrl.cli.dispatch import main
def show(*words, **options):
    sys.stdout.write(" ".join(words))
    sys.exit(any(package in sys.modules for package in ("torch", "ray", "envpool", "scipy")))
builtins.print = show
main(["train", "minigrid_mt3", "--num-env-runners", "{runners}"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment(), cwd=PROJECT_ROOT)
    assert done.returncode == 0 and done.stdout.startswith("minigrid/mt3: starting"), done.stderr
