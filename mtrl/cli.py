"""The command line. A fault of the user's is one sentence on standard error and exit code 2; any other keeps its traceback."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mtrl.arguments import parse, parse_with_experiment
from mtrl.config import ExperimentConfig, dump_yaml, load_config
from mtrl.errors import UserError

# Torch, Ray and the environments are imported where a command needs them: `--help` must not take seconds.
if TYPE_CHECKING:
    from mtrl.console import PlainConsole, TerminalConsole
    from mtrl.run_directory import RunDirectory
    from mtrl.training import Trainer

DEFAULT_CONFIG = "minigrid_mt3"
BENCHMARKS = ("throughput", "peers", "learner", "curriculum", "transfer", "soak", "chaos")
FIXED_ON_RESUME = ("model.", "learner.actor.name", "learner.critic.name", "curriculum.scheduler")  # what a checkpoint's contents depend on


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit code: 0, 1 for a failure, 2 for a fault of the user's, 130 and 143 for signals."""
    try:
        try:
            return _dispatch(list(arguments))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`... | head`). Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ValueError as error:
        if not _is_users_fault(error):
            raise
        print("error: " + "; ".join(str(error).splitlines()), file=sys.stderr)
        return 2


def entry_point() -> None:
    """The command of the installed package."""
    sys.exit(main(sys.argv[1:]))


def find_config(name: str) -> Path:
    """The experiment file that `name` means: a path, or the bare name of one of ours.

    Raises:
        UserError: with the nearest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted(_configs_directory().glob("*.yaml"))}
    if path.parent == Path() and path.stem in known:
        return known[path.stem]
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise UserError(f"no experiment {name}: neither a file nor a name in configs/; {hint}")


@dataclass(frozen=True)
class TrainOptions:
    """What `train` reads."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-TIME)")] = None
    """Where the run's files go."""
    resume: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Go on with this run from its newest checkpoint. Its own experiment is used; options below still change it."""
    auto_resume: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Go on with the run in --run-dir if there is one, else begin it: for jobs that a scheduler starts again."""
    allow_task_change: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Let --resume go on with another --suite.name: what is known of a task goes to the task of that name, new tasks begin anew."""
    init_experts: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")] = None
    """Begin with the experts of that run's newest policy; --model.freeze-experts keeps them as they are."""
    profile: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Begin with a few updates under torch's profiler: a table of where a frame's time goes, and a trace in the run's folder."""


def train(arguments: list[str], program: str) -> int:
    """Train one policy on all tasks of a suite."""
    description = "\n".join(
        [
            "Train one policy on all tasks of a suite. Every value of the experiment can be given as an option.",
            "",
            "Examples:",
            f"  {program} toy",
            f"  {program} minigrid_mt7 --total-frames 2e6 --num-env-runners 4 --learner.actor.learning-rate 3e-4",
            f"  {program} --resume runs/toy-20260101-120000 --total-frames 40_000",
        ]
    )
    options, config = parse_with_experiment(TrainOptions(), arguments, program, description, _starting_experiment)
    _check_packages()
    from mtrl.console import make_console

    console = make_console(program.removesuffix(" train"))
    directory = _existing_run(options) or _fetched_run(options, config)
    if directory is None:
        return _start(config, options.run_dir, console, options.init_experts, profiled=options.profile)
    if options.profile:
        raise UserError("--profile is for the beginning of a run; leave it out to go on with one")
    return _go_on(directory, config, console, repeated=options.auto_resume, allow_task_change=options.allow_task_change)


@dataclass(frozen=True)
class EvaluateOptions:
    """What `evaluate` reads."""

    run: Annotated[str | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None
    """The directory of a run."""
    checkpoint: Annotated[str, arg(metavar="latest|best|STEP")] = "latest"
    """Which of the run's policies."""
    episodes: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: the suite's protocol)")] = None
    """Episodes of each task."""
    backend: Annotated[str | None, arg(metavar="envpool|gymnasium", help_behavior_hint="(default: the suite's protocol)")] = None
    """What steps the environments."""
    tasks: Annotated[str, arg(metavar="A,B,C", help_behavior_hint="(default: all)")] = ""
    """Which of the run's tasks."""
    seed: Annotated[str, arg(metavar="N")] = "0"
    """Of environments and actions; never those of training."""
    workers: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: one for each core)")] = None
    """Processes that play; 1 plays in this one."""
    ray: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Play on Ray's cluster (RAY_ADDRESS), which has to see the run's directory, instead of this machine's processes."""
    video: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Film an episode of each task as well."""


def evaluate(arguments: list[str], program: str) -> int:
    """Score a run's policy by the suite's protocol."""
    options = parse(EvaluateOptions(), arguments, program, "Score a run's policy by the suite's protocol.")
    if options.run is None:
        raise UserError(f"evaluate needs the directory of a run: {program} RUN")
    if options.episodes is not None:
        _whole_number("--episodes", options.episodes, 1)
    if options.backend is not None:
        _check_choice("--backend", options.backend, ("envpool", "gymnasium"))
    seed, workers = _whole_number("--seed", options.seed, 0), _whole_number("--workers", options.workers or str(_cores()), 1)
    _check_packages()
    from mtrl.evaluation.video import choose_renderer

    choose_renderer()  # before the environments are imported
    from mtrl.console import counting
    from mtrl.evaluation.jobs import in_processes
    from mtrl.evaluation.runner import evaluate_run
    from mtrl.run_directory import RunDirectory
    from mtrl.tables import print_results

    directory = RunDirectory.open(Path(options.run))
    players = in_processes(workers)
    if options.ray:
        from mtrl.distributed.evaluation import play_on_ray

        players = play_on_ray
    with counting("episodes") as progress, _interruptible(f"{program} {' '.join(arguments)}"):
        results = evaluate_run(
            directory,
            checkpoint=options.checkpoint,
            tasks=tuple(filter(None, (name.strip() for name in options.tasks.split(",")))),
            episodes=int(options.episodes) if options.episodes else None,
            backend=options.backend,
            seed=seed,
            players=players,
            progress=progress,
        )
    print_results(results, directory.path)
    if options.video:
        _film(directory, results)
    return 0


def _film(directory: RunDirectory, results: dict[str, Any]) -> None:
    from mtrl.evaluation.video import film_policy

    step = str(results["step"])
    folder = directory.path / "evaluation" / step / "video"
    files = film_policy(
        directory.policies / step,
        folder,
        tasks=tuple(results["tasks"]),
        seed=results["seed"],
        sampled=results["sampled_actions"],
        report=lambda problem: print(f"warning: {problem}", file=sys.stderr),
    )
    if files:
        print(f"films: {folder} ({len(files)} of {len(results['tasks'])} tasks)")


@dataclass(frozen=True)
class SweepOptions:
    """What `sweep` reads."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    seeds: Annotated[str, arg(metavar="N")] = "5"
    """How many: 0 to N - 1."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-sweep)")] = None
    """Where the runs go, each in a folder of its own; what is there already goes on."""
    episodes: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: the suite's protocol)")] = None
    """Episodes of each task in the evaluation of each run."""


def sweep(arguments: list[str], program: str) -> int:
    """Train one experiment under several seeds and score them together."""
    options, config = parse_with_experiment(
        SweepOptions(),
        arguments,
        program,
        "Train one experiment under several seeds, evaluate every run and print one table. The same command goes on after an interruption.",
        lambda options: load_config(find_config(options.config or DEFAULT_CONFIG)),
    )
    seeds = range(_whole_number("--seeds", options.seeds, 1))
    episodes = None if options.episodes is None else _whole_number("--episodes", options.episodes, 1)
    _check_packages()
    from mtrl.console import counting
    from mtrl.distributed.sweep import sweep as train_all
    from mtrl.evaluation.jobs import in_processes
    from mtrl.evaluation.runner import evaluate_run
    from mtrl.run_directory import RunDirectory
    from mtrl.tables import print_sweep

    paths = train_all(config, seeds, options.run_dir or Path("runs") / f"{config.name}-sweep")
    results = []
    for path in paths:
        with counting(f"evaluating {path.name}: episodes") as progress:
            players = in_processes(_cores())
            results.append(evaluate_run(RunDirectory.open(path), episodes=episodes, players=players, progress=progress))
    print_sweep([path.name for path in paths], results)
    return 0


@dataclass(frozen=True)
class ReportOptions:
    """What `report` reads."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN...", help_behavior_hint="")] = ()
    """The directories of the runs to put side by side."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FILE")] = Path("report.html")
    """Where the page goes."""


def report(arguments: list[str], program: str) -> int:
    """Write one HTML page about runs: scores, curves, shares, differences."""
    options = parse(ReportOptions(), arguments, program, "Write one self-contained HTML page about one run or several.")
    if not options.runs:
        raise UserError(f"report needs the directory of a run: {program} RUN...")
    from mtrl.dashboard.report import write_report

    for run in write_report(options.runs, options.output):
        for problem in run.problems:
            print(f"warning: {run.path}: {problem}", file=sys.stderr)
    print(f"wrote {options.output}")
    return 0


@dataclass(frozen=True)
class DashboardOptions:
    """What `dashboard` reads."""

    runs_dir: Annotated[Path | None, Positional, arg(metavar="[RUNS_DIR]", help_behavior_hint="(default: runs)")] = None
    """The folder that holds the runs."""
    port: Annotated[str, arg(metavar="N")] = "8050"
    """Where to listen."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Which address to listen on; any but this machine's own needs a token."""
    token: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: made up when --host is not this machine alone)")] = None
    """What visitors have to show."""


def dashboard(arguments: list[str], program: str) -> int:
    """Serve pages about a folder of runs, live while they train."""
    options = parse(DashboardOptions(), arguments, program, "Serve pages about a folder of runs, live while they train. Only reads.")
    root = options.runs_dir or Path("runs")
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; name the one that holds the runs: {program} RUNS_DIR")
    if not (options.port.isdecimal() and 0 < int(options.port) < 65536):
        raise UserError(f"--port: must be a number from 1 to 65535, got {options.port!r}")
    from mtrl.dashboard.serve import serve

    serve(root, options.host, int(options.port), options.token)
    return 0


@dataclass(frozen=True)
class ExportOptions:
    """What `export` reads."""

    run: Annotated[Path | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None
    """The directory of a run."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="DIR", help_behavior_hint="(default: RUN/export/STEP[-TASK])")] = None
    """Where the files go."""
    checkpoint: Annotated[str, arg(metavar="latest|best|STEP")] = "latest"
    """Which of the run's policies."""
    task: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """The one task to fold the policy for."""


def export(arguments: list[str], program: str) -> int:
    """Write a policy as a file that torch alone can run."""
    options = parse(ExportOptions(), arguments, program, "Write a policy as torch.export, with a model card and a script that plays.")
    if options.run is None:
        raise UserError(f"export needs the directory of a run: {program} RUN")
    _check_packages()
    from mtrl.export import export_run
    from mtrl.run_directory import RunDirectory

    done = export_run(RunDirectory.open(options.run), checkpoint=options.checkpoint, task=options.task, output=options.output)
    before = done.microseconds_before
    faster = "" if before is None else f", {before / done.microseconds:.2f} times as fast as the whole policy"
    print(f"wrote {done.folder}: {done.experts} of {done.of_experts} experts, {done.microseconds:.1f} µs for an observation{faster}")
    return 0


@dataclass(frozen=True)
class ReplayOptions:
    """What `replay` reads."""

    run: Annotated[Path | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None
    """The directory of a run."""
    task: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all, at one moment)")] = None
    """The one task to follow over the run."""
    at: Annotated[str | None, arg(metavar="FRAMES", help_behavior_hint="(default: the newest decision)")] = None
    """Up to which frame."""


def replay(arguments: list[str], program: str) -> int:
    """Show why each task got its share of frames."""
    options = parse(ReplayOptions(), arguments, program, "Make a run's decisions about shares again, and show what they came from.")
    if options.run is None:
        raise UserError(f"replay needs the directory of a run: {program} RUN")
    frames = None if options.at is None else _whole_number("--at", options.at.replace("_", ""), 0)
    _check_packages()
    from envs import make_suite
    from mtrl.replay import replay_run
    from mtrl.run_directory import RunDirectory
    from mtrl.tables import print_replay

    directory = RunDirectory.open(options.run)
    if options.task is not None:
        make_suite(directory.config.suite.name).index(options.task)  # says so if there is none of that name
    replayed = replay_run(directory, frames=frames, spread=options.task is not None)
    print_replay(replayed, options.task)
    return 0 if replayed.differing is None else 1


def suites(arguments: list[str], program: str) -> int:
    """List the suites, their tasks and what steps them."""
    parse(NoOptions(), arguments, program, "List the suites, their tasks, what steps them, and their spaces.")
    _check_packages()
    from mtrl.tables import print_suites

    print_suites()
    return 0


@dataclass(frozen=True)
class DoctorOptions:
    """What `doctor` reads."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment that must be able to start."""
    cluster: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Look at the Ray cluster that RAY_ADDRESS names instead of this machine: what it has, and whether its nodes agree."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Of --cluster: the folder that all nodes should see."""


def doctor(arguments: list[str], program: str) -> int:
    """Check this machine, or a cluster: packages, cores, memory, GPU, and one step of every backend."""
    options, config = parse_with_experiment(
        DoctorOptions(),
        arguments,
        program,
        "Check this machine or a cluster, and say what will not work. Exit code 1 if the run cannot start.",
        lambda options: load_config(find_config(options.config or DEFAULT_CONFIG)),
    )
    if options.run_dir is not None and not options.cluster:
        raise UserError("--run-dir is looked at with --cluster only")
    from mtrl.doctor import examine, examine_cluster

    return examine_cluster(config, options.run_dir) if options.cluster else examine(config)


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` reads."""

    what: Annotated[str, Positional, arg(metavar="|".join(BENCHMARKS), help_behavior_hint="")] = ""
    """Frames per second of training, of other libraries on the same tasks, or of the learner alone; which scheduler learns fastest; which
    contexts to train on; whether a long run holds ever more; what runners that are killed and environments that fail cost."""
    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    schedulers: Annotated[str, arg(metavar="A,B,C")] = "uniform,t3s,learning_progress"
    """Of `curriculum`: whom to compare; the first is what the others are measured against."""
    seeds: Annotated[str, arg(metavar="N")] = "3"
    """Of `curriculum` and `transfer`: runs of each."""
    score: Annotated[str, arg(metavar="X")] = "0.8"
    """Of `curriculum`: the mean score whose frames are counted."""
    minutes: Annotated[str, arg(metavar="N")] = "60"
    """Of `soak` and `chaos`: how long."""


def bench(arguments: list[str], program: str) -> int:
    """Measure speed: of training, of peers, of the learner alone; or compare schedulers."""
    options, config = parse_with_experiment(
        BenchOptions(), arguments, program, "Measure speed.", lambda options: load_config(find_config(options.config or DEFAULT_CONFIG))
    )
    _check_choice("bench", options.what, BENCHMARKS)
    _check_packages()
    if options.what == "curriculum":
        from mtrl.bench_curriculum import compare

        compare(config, options.schedulers.split(","), _whole_number("--seeds", options.seeds, 1), _fraction("--score", options.score))
        return 0
    if options.what == "transfer":
        from mtrl.bench_transfer import compare as compare_sources

        compare_sources(config, _whole_number("--seeds", options.seeds, 1), Path("runs") / f"{config.name}-transfer")
        return 0
    if options.what == "soak":
        from mtrl.bench_soak import soak

        soak(config, _whole_number("--minutes", options.minutes, 1))
        return 0
    if options.what == "chaos":
        from mtrl.bench_chaos import chaos

        chaos(config, _whole_number("--minutes", options.minutes, 1))
        return 0
    from mtrl import benchmark

    {"throughput": benchmark.throughput, "peers": benchmark.peers, "learner": benchmark.learner}[options.what](config)
    return 0


@dataclass(frozen=True)
class NoOptions:
    """For commands without options."""


COMMANDS: dict[str, Callable[[list[str], str], int]] = {
    "train": train,
    "evaluate": evaluate,
    "sweep": sweep,
    "report": report,
    "dashboard": dashboard,
    "export": export,
    "replay": replay,
    "suites": suites,
    "doctor": doctor,
    "bench": bench,
}


def _dispatch(arguments: list[str]) -> int:
    program = "python launch.py" if Path(sys.argv[0]).suffix == ".py" else Path(sys.argv[0]).name
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(program))
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise UserError(f"no command {command!r}; there are {', '.join(COMMANDS)}{_nearest(command, tuple(COMMANDS))}")
    return COMMANDS[command](rest, f"{program} {command}")


def _overview(program: str) -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {(function.__doc__ or '').rstrip('.')}" for name, function in COMMANDS.items())
    return f"usage: {program} COMMAND [OPTIONS]\n\n{commands}\n\n{program} COMMAND --help says more about a command."


def _starting_experiment(options: TrainOptions) -> ExperimentConfig:
    """The experiment that the options change: the run's own if it is resumed, else CONFIG."""
    if options.resume is not None and (options.config is not None or options.run_dir is not None):
        given = f"CONFIG ({options.config})" if options.config is not None else f"--run-dir {options.run_dir}"
        raise UserError(f"--resume {options.resume} goes on with that run's own experiment in its own directory; leave out {given}")
    if options.auto_resume and options.run_dir is None and options.resume is None:
        raise UserError("--auto-resume needs --run-dir, so that the same command finds its run again")
    directory = _existing_run(options)
    return load_config(directory / "config.yaml") if directory is not None else load_config(find_config(options.config or DEFAULT_CONFIG))


def _existing_run(options: TrainOptions) -> Path | None:
    """The directory of the run to go on with, if one is to be gone on with."""
    if options.resume is not None:
        from mtrl.run_directory import RunDirectory

        return RunDirectory.open(options.resume).path
    if options.auto_resume and options.run_dir is not None and (options.run_dir / "config.yaml").is_file():
        return options.run_dir
    return None


def _fetched_run(options: TrainOptions, config: ExperimentConfig) -> Path | None:
    """The directory of the run to go on with, if it is not here but where its checkpoints were copied to."""
    if not options.auto_resume or options.run_dir is None or config.checkpoints.copy_to is None:
        return None
    from mtrl.mirror import fetch

    return options.run_dir if fetch(config.checkpoints.copy_to, options.run_dir) else None


def _start(
    config: ExperimentConfig, path: Path | None, console: PlainConsole | TerminalConsole, experts: Path | None, *, profiled: bool
) -> int:
    from mtrl.checkpoint import load_policy, resolve
    from mtrl.run import run_training
    from mtrl.run_directory import RunDirectory

    weights = None
    if experts is not None:
        source = RunDirectory.open(experts)
        tensors, _ = load_policy(source.policies / resolve(source.checkpoints, "latest").name)
        weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    # The trainer first: an experiment that cannot start leaves no directory behind.
    with _trainer(config) as trainer:
        if weights is not None:
            trainer.load_experts(weights)
        directory = RunDirectory.create(path, config)
        if profiled:
            from mtrl.profiling import profile_training

            console.message(profile_training(trainer, directory.path / "profile"))
        return run_training(trainer, directory, console)


def _go_on(
    path: Path, config: ExperimentConfig, console: PlainConsole | TerminalConsole, *, repeated: bool, allow_task_change: bool
) -> int:
    """Goes on with the run in `path`. With `repeated`, nothing to go on from and nothing left to do are as good."""
    from mtrl.run import resume, run_training
    from mtrl.run_directory import RunDirectory

    _check_changes(path, load_config(path / "config.yaml"), config)
    with _trainer(config) as trainer:
        directory = RunDirectory(path, config)
        if not resume(trainer, directory, console, allow_task_change=allow_task_change) and not repeated:
            raise UserError(f"{path} has no checkpoint to go on from")
        if trainer.frames >= config.total_frames:
            finished = f"{path} has trained on {trainer.frames:,} of {config.total_frames:,} frames"
            if not repeated:
                raise UserError(f"{finished}; give a larger --total-frames to go on")
            console.message(f"{finished}: nothing to do")
            return 0
        (path / "config.yaml").write_text(dump_yaml(config))
        return run_training(trainer, directory, console)


@contextmanager
def _trainer(config: ExperimentConfig) -> Iterator[Trainer]:
    """The experiment's trainer, in this process or on Ray, which is imported for nothing else; closed at the end."""
    if config.env_runners.num_env_runners == 0:
        from mtrl.training import build_trainer

        trainer = build_trainer(config)
        try:
            yield trainer
        finally:
            trainer.close()
    else:
        from mtrl.distributed import build_ray_trainer

        algorithm, trainer = build_ray_trainer(config)
        try:
            yield trainer
        finally:
            algorithm.stop()


def _check_changes(path: Path, old: ExperimentConfig, new: ExperimentConfig) -> None:
    before, after = _leaves(old.model_dump()), _leaves(new.model_dump())
    for name, value in before.items():
        if name.startswith(FIXED_ON_RESUME) and value != after[name]:
            raise UserError(f"{name} cannot change when a run is resumed: {path} has {value!r}, the command line {after[name]!r}")


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping's values by their dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _configs_directory() -> Path:
    """The experiments that come with the program: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _check_packages() -> None:
    """Other distributions install packages called `envs`, too; the one that was installed last wins."""
    import envs

    if not hasattr(envs, "make_suite"):
        place = Path(envs.__file__).parent if envs.__file__ else "an empty folder"
        raise UserError(
            f"the package `envs` that Python finds ({place}) is not this project's; remove the other one, or run from our folder"
        )


def _is_users_fault(error: ValueError) -> bool:
    """Ours, or one of the tasks' errors: `envs` does not know this package."""
    ours: tuple[type[ValueError], ...] = (UserError,)
    if hasattr(sys.modules.get("envs"), "SuiteError"):
        from envs import SuiteError

        ours = (UserError, SuiteError)
    return isinstance(error, ours)


def _whole_number(option: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{option}: must be a whole number of {least} or more, got {text!r}")
    return int(text)


def _fraction(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{option}: must be a number from 0 to 1, got {text!r}")
    return value


@contextmanager
def _interruptible(command: str) -> Iterator[None]:
    """Says after Ctrl-C that nothing is lost. SIGTERM is taken for the same, so that worker processes end with this one."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(f"interrupted; what was played is kept, and the same command goes on from there: {command}", file=sys.stderr)
        raise


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_choice(what: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UserError(f"{what}: must be one of {', '.join(known)}, got {word!r}{_nearest(word, known)}")


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
