"""Options of a suite after the `?` of its name: `gym/CartPole-v1?low=0&high=500`."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence

from envs.errors import SuiteError


def options_of(suite: str, query: str, known: Sequence[str]) -> dict[str, str]:
    """The options in `query`, which is what follows the `?`.

    Args:
        suite: the suite's name, for messages.
        query: `NAME=VALUE&NAME=VALUE`.
        known: the names of the options that there are.

    Raises:
        SuiteError: an option is unknown, or given twice.
    """
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise SuiteError(f"{suite}: an option is given twice")
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SuiteError(f"{suite}: there is no option {unknown[0]!r}; there are {', '.join(known[:-1])} and {known[-1]}")
    return options


def return_range(suite: str, options: Mapping[str, str]) -> tuple[float, float | None]:
    """The returns that score 0 and 1, from the options `low` (0 if it is not given) and `high` (None if it is not given).

    Raises:
        SuiteError: they are no numbers, or `high` is not above `low`.
    """
    given = {name: options[name] for name in ("low", "high") if name in options}
    try:
        low = float(given.get("low", 0.0))
        high = float(given["high"]) if "high" in given else None
    except ValueError:
        raise SuiteError(f"{suite}: low and high are returns, got {given}") from None
    if high is not None and high <= low:
        raise SuiteError(f"{suite}: high has to be above low, got {low:g} and {high:g}")
    return low, high
