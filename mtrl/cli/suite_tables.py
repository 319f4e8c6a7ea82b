"""Tables of the suites and families of tasks on the terminal."""

from __future__ import annotations

import gymnasium
import rich.console
from rich.table import Table
from rich.text import Text

from envs import list_suites, make_suite
from envs.errors import MissingPackageError
from envs.mixed import KIND, EitherSpace
from envs.registry import FAMILIES, tasks_of

WIDEST_SUITE = 124  # characters of a line of `print_suites`


def print_suites() -> None:
    """A table of all suites: their tasks, what steps them, what is seen and done. Suites that lack a package are named below it."""
    terminal = rich.console.Console()
    terminal.width = max(terminal.width, WIDEST_SUITE)  # a name that is cut short is of no use
    table = Table(box=None, padding=(0, 3, 0, 0), show_header=True)
    for title in ("suite", "tasks", "backends", "observation", "actions"):
        table.add_column(title, no_wrap=True)
    suites, lacking = [], dict[str, str]()
    for name in list_suites():
        try:
            suites.append(make_suite(name))
        except MissingPackageError as error:
            lacking[name] = str(error)
    for suite in suites:
        backends = ", ".join(suite.backends)
        in_envpool = sum(task.envpool_id is not None for task in suite.tasks)
        if 0 < in_envpool < suite.num_tasks:
            backends = f"envpool ({in_envpool} of {suite.num_tasks}), {backends}"
        seen = describe_observation(suite.observation_space)
        table.add_row(f"[bold]{suite.name}[/]", str(suite.num_tasks), backends, seen, describe(suite.action_space))
    terminal.print(table)
    for suite in suites:
        terminal.print(Text.assemble("\n", (suite.name, "bold"), "\n", ", ".join(suite.names)))
    for name, reason in lacking.items():
        terminal.print(Text.assemble("\n", (name, "bold"), "\n", reason))


def print_counts() -> None:
    """A table of the families with the number of different tasks that can be trained on."""
    terminal = rich.console.Console()
    table = Table(box=None, padding=(0, 3, 0, 0))
    table.add_column("family", no_wrap=True)
    table.add_column("tasks", justify="right", no_wrap=True)
    table.add_column("for example", no_wrap=True)
    tasks = {family: tasks_of(family) for family in FAMILIES}
    counted = {family: names for family, names in tasks.items() if names}
    for family, names in counted.items():
        table.add_row(family, f"{len(names):,}", names[0])
    terminal.print(table)
    total = sum(map(len, counted.values()))
    terminal.print(Text(f"\n{total:,} tasks in {len(counted)} families"))


def describe_observation(space: gymnasium.spaces.Dict) -> str:
    """The arrays of an observation, or how many kinds of observations there are."""
    if KIND in space.spaces:
        return f"{len({name.partition('.')[0] for name in space if name != KIND})} kinds"
    return ", ".join(f"{key} {describe(part)}" for key, part in space.items())


def describe(space: gymnasium.Space) -> str:
    """A space in a word or two."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return f"{space.n} actions"
    if isinstance(space, EitherSpace):
        return f"{len(space.kinds)} kinds"
    shape = "×".join(map(str, space.shape or ()))
    return f"{shape} {space.dtype}"
