"""Atari 2600: the 57 games that agents are compared on, as four stacked grey frames with the full set of 18 actions.

As in IMPALA's multi-task runs: up to 30 idle frames at the start, each action repeated for four frames, the pixelwise maximum of the last
two observed, no end of an episode at the loss of a life, 30 minutes at most. Scores are human-normalised: 0 is the return of random play,
1 that of a person.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.errors import SuiteError, UnknownTaskError, did_you_mean
from envs.suites.descriptions import ATARI
from envs.task import EvaluationProtocol, PlayRecipe, Task, TaskSuite

FRAMES, SIZE = 4, 84
ACTIONS = 18
SKIP = 4
IDLE_FRAMES = 30
MAX_STEPS = 27_000  # 30 minutes at 60 frames a second


class Published(NamedTuple):
    """Mean returns in games that begin with idle frames (Wang et al. 2016)."""

    random: float
    human: float


PUBLISHED = {
    game: Published(*returns)
    for game, *returns in (
        ("Alien", 227.8, 7127.7), ("Amidar", 5.8, 1719.5), ("Assault", 222.4, 742.0), ("Asterix", 210.0, 8503.3),
        ("Asteroids", 719.1, 47388.7), ("Atlantis", 12850.0, 29028.1), ("BankHeist", 14.2, 753.1), ("BattleZone", 2360.0, 37187.5),
        ("BeamRider", 363.9, 16926.5), ("Berzerk", 123.7, 2630.4), ("Bowling", 23.1, 160.7), ("Boxing", 0.1, 12.1),
        ("Breakout", 1.7, 30.5), ("Centipede", 2090.9, 12017.0), ("ChopperCommand", 811.0, 7387.8), ("CrazyClimber", 10780.5, 35829.4),
        ("Defender", 2874.5, 18688.9), ("DemonAttack", 152.1, 1971.0), ("DoubleDunk", -18.6, -16.4), ("Enduro", 0.0, 860.5),
        ("FishingDerby", -91.7, -38.7), ("Freeway", 0.0, 29.6), ("Frostbite", 65.2, 4334.7), ("Gopher", 257.6, 2412.5),
        ("Gravitar", 173.0, 3351.4), ("Hero", 1027.0, 30826.4), ("IceHockey", -11.2, 0.9), ("Jamesbond", 29.0, 302.8),
        ("Kangaroo", 52.0, 3035.0), ("Krull", 1598.0, 2665.5), ("KungFuMaster", 258.5, 22736.3), ("MontezumaRevenge", 0.0, 4753.3),
        ("MsPacman", 307.3, 6951.6), ("NameThisGame", 2292.3, 8049.0), ("Phoenix", 761.4, 7242.6), ("Pitfall", -229.4, 6463.7),
        ("Pong", -20.7, 14.6), ("PrivateEye", 24.9, 69571.3), ("Qbert", 163.9, 13455.0), ("Riverraid", 1338.5, 17118.0),
        ("RoadRunner", 11.5, 7845.0), ("Robotank", 2.2, 11.9), ("Seaquest", 68.4, 42054.7), ("Skiing", -17098.1, -4336.9),
        ("Solaris", 1236.3, 12326.7), ("SpaceInvaders", 148.0, 1668.7), ("StarGunner", 664.0, 10250.0), ("Surround", -10.0, 6.5),
        ("Tennis", -23.8, -8.3), ("TimePilot", 3568.0, 5229.2), ("Tutankham", 11.4, 167.6), ("UpNDown", 533.4, 11693.2),
        ("Venture", 0.0, 1187.5), ("VideoPinball", 16256.9, 17667.9), ("WizardOfWor", 563.5, 4756.5), ("YarsRevenge", 3092.9, 54576.9),
        ("Zaxxon", 32.5, 9173.3),
    )
}  # fmt: skip
# Few enough for a workstation, and with different demands: timing, aiming, steering, patience.
GAMES_5 = ("Pong", "Breakout", "Boxing", "Freeway", "SpaceInvaders")
SETS = {"5": GAMES_5, "57": tuple(PUBLISHED)}

OBSERVATION_SPACE = gymnasium.spaces.Dict({"frames": gymnasium.spaces.Box(0, 255, (FRAMES, SIZE, SIZE), np.uint8)})
ACTION_SPACE: gymnasium.Space = gymnasium.spaces.Discrete(ACTIONS)
RECIPE = PlayRecipe(
    "ale_py",
    'make_game("{task}")',
    "numpy.asarray(observation)",
    f"""\
import numpy


def make_game(name):
    options = dict(frameskip=1, repeat_action_probability=0.0, full_action_space=True, max_num_frames_per_episode={MAX_STEPS * SKIP})
    env = gymnasium.make(f"ALE/{{name}}-v5", **options)
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max={IDLE_FRAMES}, frame_skip={SKIP}, screen_size={SIZE})
    return gymnasium.wrappers.FrameStackObservation(env, {FRAMES})

""",
)
PROTOCOL = EvaluationProtocol("atari-v1", episodes=10, actions="sampled", backend="envpool")  # EnvPool steps ALE's own code


def names() -> list[str]:
    """The named sets."""
    return list(SETS)


def make(name: str) -> TaskSuite:
    """A named set, one game (`Pong`) or several, separated by commas.

    Raises:
        UnknownTaskError: no such game is among the 57.
    """
    return TaskSuite(
        name=f"atari/{name}",
        tasks=tuple(_task(game) for game in SETS.get(name) or (part.strip() for part in name.split(","))),
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        adapt=_frames,
        protocol=PROTOCOL,
        recipe=RECIPE,
    )


def make_game(game: str, render_mode: str | None = None) -> gymnasium.Env:
    """A game through ALE's own package, with Gymnasium's preprocessing.

    Raises:
        SuiteError: ale-py or OpenCV is not installed.
    """
    try:
        import ale_py
        import cv2  # noqa: F401  (AtariPreprocessing resizes frames with it)
    except ImportError as error:
        raise SuiteError(
            f"Atari's games need the ale-py and opencv-python-headless packages outside EnvPool ({error}); install mtrl-trainer[atari]"
        ) from None
    gymnasium.register_envs(ale_py)
    env: gymnasium.Env = gymnasium.make(
        f"ALE/{game}-v5",
        render_mode=render_mode,
        frameskip=1,  # AtariPreprocessing skips frames
        repeat_action_probability=0.0,
        full_action_space=True,
        max_num_frames_per_episode=MAX_STEPS * SKIP,
    )
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=IDLE_FRAMES, frame_skip=SKIP, screen_size=SIZE)
    return gymnasium.wrappers.FrameStackObservation(env, FRAMES)


def _task(game: str) -> Task:
    if game not in PUBLISHED:
        raise UnknownTaskError(f"atari has no game {game!r}{did_you_mean(game, [*PUBLISHED, *SETS])}")
    published = PUBLISHED[game]
    return Task(
        name=game,
        make_env=functools.partial(make_game, game),
        low=published.random,
        high=published.human,
        success_return=published.human,
        envpool_id=f"{game}-v5",
        envpool_options={
            "full_action_space": True,
            "noop_max": IDLE_FRAMES,
            "frame_skip": SKIP,
            "stack_num": FRAMES,
            "repeat_action_probability": 0.0,
            "episodic_life": False,
            "reward_clip": False,
            "use_fire_reset": False,  # the policy can press the fire button itself
            "max_episode_steps": MAX_STEPS,
        },
        description=ATARI[game],
    )


def _frames(observation: object) -> dict[str, np.ndarray]:
    return {"frames": np.asarray(observation)}
