"""The command line. What a user or a machine can mend is one sentence on standard error and exit code 2.

A fault of ours keeps its traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mtrl.cli.commands.bench import bench
from mtrl.cli.commands.check import check
from mtrl.cli.commands.compare_alone import compare_alone
from mtrl.cli.commands.dashboard import dashboard
from mtrl.cli.commands.doctor import doctor
from mtrl.cli.commands.evaluate import evaluate
from mtrl.cli.commands.explain import explain
from mtrl.cli.commands.export import export
from mtrl.cli.commands.report import report
from mtrl.cli.commands.search import search
from mtrl.cli.commands.suites import suites
from mtrl.cli.commands.sweep import sweep
from mtrl.cli.commands.train import train
from mtrl.errors import UserError, did_you_mean
from mtrl.machine import PROJECT_ROOT
from mtrl.signals import Repeats, received

COMMANDS: dict[str, Callable[[list[str], str], int]] = {
    "train": train,
    "evaluate": evaluate,
    "sweep": sweep,
    "search": search,
    "compare-alone": compare_alone,
    "report": report,
    "dashboard": dashboard,
    "export": export,
    "explain": explain,
    "suites": suites,
    "check": check,
    "doctor": doctor,
    "bench": bench,
}

TRACEBACK_VARIABLE = "MTRL_TRACEBACK"
GPU_ERRORS = ("AcceleratorError",)  # of PyTorch, which is not imported for this
NO_THREAD = ("can't start new thread", "Resource temporarily unavailable")  # in the RuntimeErrors of Python and of C++
ALLOCATION = "can't allocate memory"  # in the RuntimeError of PyTorch's allocator for the CPU
REPORT = (
    "If the lines above do not end in code of your own, this is a fault of mtrl-trainer. Please report it with these lines, the command "
    "and the output of `python launch.py doctor`."
)

FORMER_COMMANDS = {"replay": "explain"}  # understood for one version


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit code: 0, 1 for a failure, 2 for a fault of the user's, 130 and 143 for signals."""
    try:
        try:
            return _dispatch(list(arguments))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # also what Ray makes of another signal while it waits
        return 128 + (received[0] if received else signal.SIGINT)
    except BrokenPipeError:
        # Whoever read our output has gone (`... | head`). Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ValueError as error:
        if not _is_users_fault(error):
            raise
        _complain("; ".join(str(error).splitlines()))
        return 2
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        sentence = _of_the_machine(error)
        if sentence is None or os.environ.get(TRACEBACK_VARIABLE):
            raise
        _complain(f"{sentence} ({TRACEBACK_VARIABLE}=1 shows the traceback)")
        return 2


def entry_point() -> NoReturn:
    """Runs the command of `sys.argv` and ends the process.

    Python would wait for every thread that an environment has left running, and take a second to clear up memory that the system frees.
    """
    code: Any = 1
    _shorten_warnings()
    _end_in_order()
    try:
        code = main(sys.argv[1:])
    except SystemExit as error:  # from the parsers of arguments
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else _printed(error.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        print(REPORT, file=sys.stderr)
    sys.unraisablehook = _in_one_line
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _in_one_line(fault: Any) -> None:
    """What fails while libraries clear up is no traceback of ours."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: at the end of the program: {type(fault.exc_value).__name__}: {fault.exc_value}", file=sys.stderr)


def _end_in_order() -> None:
    """SIGTERM, SIGHUP and SIGINT let a command end in order, but a later one ends it at once.

    Under nohup SIGHUP stays ignored. Shells let their background jobs ignore SIGINT, which is obeyed all the same, as in a training.
    """
    repeats = Repeats()

    def end(number: int, frame: Any) -> None:
        if repeats.repeated():
            return
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(each) is end:
                signal.signal(each, again)
        received.append(number)
        raise KeyboardInterrupt  # which passes through whatever catches errors, and ends the processes of a command

    def again(number: int, frame: Any) -> None:
        if not repeats.repeated():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if number == signal.SIGINT or signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def _shorten_warnings() -> None:
    """Shows our own warnings as `warning: TEXT`, without the line of code that they come from."""
    format_warning = warnings.formatwarning

    def shortened(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
        ours = category in (UserWarning, FutureWarning) and Path(filename).is_relative_to(PROJECT_ROOT)
        return f"warning: {message}\n" if ours else format_warning(message, category, filename, lineno, line)

    warnings.formatwarning = shortened
    # EnvPool imports it, and it has three lines to say of a folder for its caches that it cannot write to.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _printed(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


def _dispatch(arguments: list[str]) -> int:
    program = "python launch.py" if Path(sys.argv[0]).suffix == ".py" else Path(sys.argv[0]).name
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(program))
        return 0
    command, *rest = arguments
    if command in FORMER_COMMANDS:
        print(f"note: {command} is now called {FORMER_COMMANDS[command]}", file=sys.stderr)
        command = FORMER_COMMANDS[command]
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        raise UserError(f"no command {command!r}; there are {', '.join(COMMANDS)}" + (f"; {hint}" if hint else ""))
    return COMMANDS[command](rest, f"{program} {command}")


def _overview(program: str) -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {(function.__doc__ or '').rstrip('.')}" for name, function in COMMANDS.items())
    return f"usage: {program} COMMAND [OPTIONS]\n\n{commands}\n\n{program} COMMAND --help says more about a command."


def _complain(sentence: str) -> None:
    """Prints an error, if anybody can read it: standard error may be a full disk or closed."""
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {sentence}", file=sys.stderr, flush=True)


def _of_the_machine(error: BaseException) -> str | None:
    """An error of the system under a command, in one sentence; None for any other error.

    Once a run has begun to train, errors keep their tracebacks, for they may be an environment's. Memory is the machine's at any time.
    """
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or ALLOCATION in text:
        return f"out of memory{_address_space()} ({type(error).__name__}{': ' if text else ''}{text})"
    if any(words in text for words in NO_THREAD):
        return f"no thread can be started: memory or the number of processes is used up (`ulimit -u`, a container's limit) ({text})"
    calls = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "run_training" in calls:
        return None
    if isinstance(error, ImportError):
        ours = (error.name or "").partition(".")[0] in ("mtrl", "envs")
        return None if ours else f"{text}; `python launch.py doctor` says which packages cannot be imported"
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror or type(error).__name__}{place}"
    return f"{type(error).__name__}: {text}".rstrip(": ") if type(error).__name__ in GPU_ERRORS else None


def _address_space() -> str:
    """How far `ulimit -v` limits this process, for a message."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return "" if limit == resource.RLIM_INFINITY else f": `ulimit -v` leaves this process {limit / 2**30:.1f} GiB"


def _is_users_fault(error: ValueError) -> bool:
    """Ours, or one of the tasks' errors: `envs` does not know this package."""
    ours: tuple[type[ValueError], ...] = (UserError,)
    if hasattr(sys.modules.get("envs"), "SuiteError"):
        from envs import SuiteError

        ours = (UserError, SuiteError)
    return isinstance(error, ours)
