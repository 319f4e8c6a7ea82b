"""Names, numbers and times as a terminal shows them."""

from __future__ import annotations

import math


def short_names(names: tuple[str, ...]) -> list[str]:
    """The names without the words that all of them begin and end with, such as `MiniGrid-` and `-v3`."""
    words = [name.split("-") for name in names]
    most = min(map(len, words)) - 1 if len(names) > 1 else 0  # each name keeps a word of its own
    last = _common_words([parts[::-1] for parts in words], most)
    first = _common_words(words, most - last)
    return ["-".join(parts[first : len(parts) - last]) for parts in words]


def _common_words(names: list[list[str]], most: int) -> int:
    """The number of words that all names begin with, at most `most`."""
    return next((count for count in range(most) if len({parts[count] for parts in names}) > 1), most)


def shorten(name: str, width: int) -> str:
    """`name` in at most `width` cells; both ends stay, since the names of a suite differ at either."""
    if len(name) <= width:
        return name
    return name[: width // 2] + "…" + name[len(name) - (width - width // 2 - 1) :]


def number(value: float, form: str) -> str:
    """`value` formatted, or a dash where it is unknown."""
    return "–" if math.isnan(value) else format(value, form)


def amount(value: float) -> str:
    """A count in at most seven cells: 950, 12.3 k, 1.23 M."""
    if math.isnan(value):
        return "–"
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= scale:
            scaled = value / min(scale, 1e3 if unit == "k" else scale)
            return f"{scaled:.2f} {unit}" if scaled < 10 else f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds as 0:05, 6:32, 1:02:03 or 3 d 04:05."""
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
