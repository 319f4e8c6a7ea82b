"""How much there is to learn on a level, as an episode on it shows: estimates of the policy's regret."""

from __future__ import annotations

from typing import Literal, NamedTuple

ScoreName = Literal["positive_value_loss", "max_monte_carlo", "one_step_td_error", "value_l1"]


class LevelEpisode(NamedTuple):
    """A finished episode and what the critic says of it. Means are over its steps."""

    task: int
    level: int  # the level's number
    only_rated: bool  # whether nothing was learned from it
    steps: int
    episode_return: float  # undiscounted sum of the rewards that are learned from
    value: float  # mean V(x_t)
    positive_advantage: float  # mean max(A_t, 0), where A_t is V-trace's v_t - V(x_t)
    absolute_advantage: float  # mean |A_t|
    td_error: float  # mean |r_t + γ V(x_{t+1}) - V(x_t)|


def score_of(name: ScoreName, episode: LevelEpisode, best_return: float) -> float:
    """The score of the level that an episode was played on.

    Args:
        name: the rule.
        episode: the newest on the level.
        best_return: the highest return that any episode on the level had, this one included.
    """
    if name == "positive_value_loss":
        return episode.positive_advantage
    if name == "max_monte_carlo":
        return best_return - episode.value
    return episode.td_error if name == "one_step_td_error" else episode.absolute_advantage
