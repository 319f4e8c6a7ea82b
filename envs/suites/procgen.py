"""Procgen: sixteen games whose levels are drawn by a program, so that a policy is tested on levels that it has not seen.

A score is (R - Rmin) / (Rmax - Rmin), with the returns of Cobbe et al. 2020 (appendix C): Rmin is that of a policy that cannot see,
Rmax the highest possible one, or an estimate of it. Observations are one picture of 64x64; nothing is stacked or repeated.
"""

from __future__ import annotations

from typing import NamedTuple

from envs.errors import SuiteError
from envs.pools.options import options_of
from envs.pools.suite import Entry, choose, pool_suite, served
from envs.task import EvaluationProtocol, TaskSuite


class Published(NamedTuple):
    """Rmin and Rmax of a game."""

    easy: tuple[float, float]
    hard: tuple[float, float]


PUBLISHED = {
    game: Published((easy_low, easy_high), (hard_low, hard_high))
    for game, easy_low, easy_high, hard_low, hard_high in (
        ("CoinRun", 5.0, 10.0, 5.0, 10.0), ("StarPilot", 2.5, 64.0, 1.5, 35.0), ("CaveFlyer", 3.5, 12.0, 2.0, 13.4),
        ("Dodgeball", 1.5, 19.0, 1.5, 19.0), ("FruitBot", -1.5, 32.4, -0.5, 27.2), ("Chaser", 0.5, 13.0, 0.5, 14.2),
        ("Miner", 1.5, 13.0, 1.5, 20.0), ("Jumper", 3.0, 10.0, 1.0, 10.0), ("Leaper", 3.0, 10.0, 1.5, 10.0),
        ("Maze", 5.0, 10.0, 4.0, 10.0), ("BigFish", 1.0, 40.0, 0.0, 40.0), ("Heist", 3.5, 10.0, 2.0, 10.0),
        ("Climber", 2.0, 12.6, 1.0, 12.6), ("Plunder", 4.5, 30.0, 3.0, 30.0), ("Ninja", 3.5, 10.0, 2.0, 10.0),
        ("BossFight", 0.5, 13.0, 0.5, 13.0),
    )
}  # fmt: skip
MODES = ("easy", "hard")
SETS = {"4": ("CoinRun", "StarPilot", "BigFish", "Jumper"), "16": tuple(PUBLISHED)}
PROTOCOL = EvaluationProtocol("procgen-v1", episodes=100, actions="sampled", backend="envpool")


def names() -> list[str]:
    """The named sets."""
    return list(SETS)


def make(name: str) -> TaskSuite:
    """`4`, `16`, one game (`CoinRun`) or several, separated by commas.

    Options: `?mode=hard` for the harder levels; `?levels=200` to train on levels 0 to 199 alone. The evaluation plays all levels.

    Raises:
        UnknownTaskError: Procgen has no such game.
        SuiteError: EnvPool or Qt is not installed, or an option makes no sense.
    """
    listed, _, query = name.partition("?")
    options = options_of(f"procgen/{name}", query, ("mode", "levels"))
    mode = options.get("mode", "easy")
    if mode not in MODES:
        raise SuiteError(f"procgen/{name}: there is no mode {mode!r}; there are {' and '.join(MODES)}")
    levels = options.get("levels", "0")
    if not levels.isdecimal():
        raise SuiteError(f"procgen/{name}: levels is a number of levels to train on, or 0 for all; got {levels!r}")
    games = choose("procgen", "16" if listed == "all" else listed, SETS, list(PUBLISHED))
    rules = {"mode": mode, "training_levels": "all" if int(levels) == 0 else levels}
    return pool_suite(f"procgen/{name}", [_entry(game, mode, int(levels)) for game in games], PROTOCOL, rules)


def tasks() -> list[str]:
    """All games, easy and hard."""
    return [f"{entry.name}?mode={mode}" for mode in MODES for entry in served(_entry(game, mode, 0) for game in PUBLISHED)]


def _entry(game: str, mode: str, levels: int) -> Entry:
    low, high = getattr(PUBLISHED[game], mode)
    return Entry(
        name=game,
        envpool_id=f"{game.capitalize()}{mode.capitalize()}-v0",
        low=low,
        high=high,
        options={"num_levels": levels, "start_level": 0},
        evaluation_options={"num_levels": 0, "start_level": 0},
    )
