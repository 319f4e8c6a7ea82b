"""`search`: good settings for an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_choice, check_packages, find_config, find_space, interrupted, parse_whole_number
from mtrl.config import load_config, override
from mtrl.errors import TrialsInterruptedError, UserError

METHODS = ("asha", "random", "pbt", "optuna")
BEST = 5  # trials in the table


@dataclass(frozen=True)
class SearchOptions:
    """Options of `search`."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    space: Annotated[str | None, arg(metavar="SPACE", help_behavior_hint="(default: that of the suite's family)")] = None
    """The fields to search and their values: a YAML file, or the name of one in configs/spaces/."""
    method: Annotated[str, arg(metavar="|".join(METHODS))] = "asha"
    """`asha` stops trials that are behind others at equal cost; `random` gives all their whole budget; `pbt` lets the worst trials go on
    from the best with changed values; `optuna` draws values near good ones, and stops trials as `asha` does."""
    trials: Annotated[str, arg(metavar="N")] = "64"
    """Number of trials; with `pbt` the size of the population."""
    budget: Annotated[str | None, arg(metavar="N|Ns", help_behavior_hint="(default: total_frames)")] = None
    """Cost of a whole trial: frames such as 200_000, or seconds such as 60s. In seconds, a setting that makes training slow has to be
    worth it."""
    search_seed: Annotated[str, arg(metavar="N")] = "0"
    """Seed of the values that are drawn; --seed is that of all trials."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-search)")] = None
    """The folder of the search, with a run for each trial; a search that was interrupted goes on there."""


def search(arguments: list[str], program: str) -> int:
    """Search for good settings of an experiment."""
    options, config = parse_with_experiment(
        SearchOptions(),
        arguments,
        program,
        "Train one experiment with many settings, and find the best ones. Trials run in one process each, as many at once as there are "
        "cores, unless --num-env-runners says otherwise. The same command goes on after an interruption.",
        lambda options: override(load_config(find_config(options.config or DEFAULT_CONFIG)), {"env_runners.num_env_runners": 0}),
    )
    check_choice("--method", options.method, METHODS)
    trials = parse_whole_number("--trials", options.trials, 1)
    seed = parse_whole_number("--search-seed", options.search_seed, 0)
    check_packages()
    from mtrl.cli.tables import print_search
    from mtrl.dashboard.search import write_search_page
    from mtrl.distributed.search import Budget
    from mtrl.distributed.search import search as search_all
    from mtrl.distributed.search_space import load_space
    from mtrl.storage.search_record import FILE, read_search

    space = load_space(find_space(options.space or config.suite.name.partition("/")[0]))
    budget = Budget(*_budget(options.budget, config.total_frames))
    folder = options.run_dir or Path("runs") / f"{config.name}-search"
    print(f"{config.suite.name}: {trials} trials by {options.method}, starting Ray", flush=True)
    try:
        method: Any = options.method
        found = search_all(config, space, folder, trials=trials, method=method, budget=budget, seed=seed, ended=write_search_page)
    except TrialsInterruptedError as error:
        if (folder / FILE).exists():
            print_search(read_search(folder), BEST)
            print(f"page:         {write_search_page(folder)}")
        return interrupted(error, program, arguments)
    print_search(found, BEST)
    print(f"page:         {write_search_page(folder)}")
    print(f"to train it:  python launch.py train {folder / found[0].name / 'config.yaml'}")
    return 0


def _budget(text: str | None, total_frames: int) -> tuple[Literal["frames", "seconds"], float]:
    if text is None:
        return "frames", total_frames
    digits = text.removesuffix("s").replace("_", "")
    if not digits.isdecimal() or int(digits) < 1:
        raise UserError(f"--budget: must be frames such as 200_000 or seconds such as 60s, got {text!r}")
    return ("seconds" if text.endswith("s") else "frames"), int(digits)
