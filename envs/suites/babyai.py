"""BabyAI: grid worlds whose mission is a sentence. The agent sees its view and the mission's words."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np

from envs.errors import SuiteError, UnknownTaskError, did_you_mean
from envs.suites.descriptions import BABYAI, by_beginning
from envs.suites.minigrid import ACTION_SPACE, make_registered, registered_ids
from envs.suites.minigrid import in_envpool as known_to_envpool
from envs.task import EvaluationProtocol, PlayRecipe, Task, TaskSuite

# The levels of Polytropon's study (Ponti et al. 2023), from one room with one object to a maze of nine rooms.
LEVELS_8 = ("GoToObj", "GoToRedBallGrey", "GoToRedBall", "GoToLocal", "PutNextLocal", "PickupLoc", "GoToObjMaze", "GoTo")
SETS = {"8": LEVELS_8}

GRAMMAR = """
    go to, pick up, put next to, open, the, a, ball, box, key, door, object, red, green, blue, purple, yellow, grey,
    in front of you, behind you, on your left, on your right, and, then, after
"""
WORDS = tuple(sorted(set(GRAMMAR.replace(",", " ").split())))
"""All words of BabyAI's grammar. A word's number is its place here, from 1; 0 fills up the rest of a sentence."""
MISSION_LENGTH = 72  # words of the longest sentence: two pairs of clauses, each of which puts one object next to another
NUMBERS = {word: number for number, word in enumerate(WORDS, 1)}

OBSERVATION_SPACE = gymnasium.spaces.Dict(
    {
        "image": gymnasium.spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "mission": gymnasium.spaces.Box(0, len(WORDS), (MISSION_LENGTH,), np.uint8),
    }
)

RECIPE = PlayRecipe(
    "minigrid",
    'gymnasium.make("BabyAI-{task}-v0")',
    {"image": 'observation["image"]', "mission": 'numbers_of(observation["mission"])'},
    f"""\
import numpy

WORDS = "{" ".join(WORDS)}".split()


def numbers_of(mission):
    numbers = [WORDS.index(word) + 1 for word in mission.lower().replace(",", " ").split()]
    return numpy.array(numbers + [0] * ({MISSION_LENGTH} - len(numbers)), "uint8")

""",
)
PROTOCOL = EvaluationProtocol("babyai-512-v1", episodes=512, actions="greedy")


def names() -> list[str]:
    """The named sets."""
    return list(SETS)


def tasks() -> list[str]:
    """All tasks of this family in the minigrid package.

    Raises:
        MissingPackageError: minigrid is not installed.
    """
    return [_short(each) for each in sorted(registered_ids("BabyAI-"))]


def make(name: str) -> TaskSuite:
    """A named set, one level (`GoToLocal`, or its full id `BabyAI-GoToLocal-v0`) or several, separated by commas.

    Raises:
        UnknownTaskError: BabyAI has no such level.
        SuiteError: minigrid is not installed.
    """
    levels = SETS.get(name) or tuple(_short(part.strip()) for part in name.split(","))
    return TaskSuite(
        name=f"babyai/{name}",
        tasks=tuple(_task(level) for level in levels),
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        adapt=view_and_words,
        scored_by="success",
        protocol=PROTOCOL,
        recipe=RECIPE,
    )


def view_and_words(observation: object) -> dict[str, np.ndarray]:
    """The view, and the mission's words as numbers. One environment has its mission as a string, a pool has them as bytes."""
    image, mission = observation["image"], observation["mission"]  # type: ignore[index]
    if isinstance(mission, str):
        return {"image": image, "mission": words_of(mission)}
    sentences = [bytes(row).rstrip(b"\0").decode() for row in np.atleast_2d(mission)]
    words = np.stack([words_of(sentence) for sentence in sentences])
    return {"image": image, "mission": words if np.ndim(mission) > 1 else words[0]}


@functools.lru_cache(maxsize=10_000)
def words_of(sentence: str) -> np.ndarray:
    """The numbers of a sentence's words, [MISSION_LENGTH] uint8, filled up with 0.

    Raises:
        SuiteError: a word that BabyAI's grammar does not have, or too many.
    """
    words = sentence.lower().replace(",", " ").split()
    unknown = [word for word in words if word not in NUMBERS]
    if unknown or len(words) > MISSION_LENGTH:
        fault = f"the word {unknown[0]!r}" if unknown else f"{len(words)} words"
        raise SuiteError(f"babyai: the mission {sentence!r} has {fault}, which the vocabulary does not have room for")
    numbers = np.zeros(MISSION_LENGTH, np.uint8)
    numbers[: len(words)] = [NUMBERS[word] for word in words]
    numbers.flags.writeable = False  # the cache keeps it
    return numbers


def _short(name: str) -> str:
    return name.removeprefix("BabyAI-").removesuffix("-v0")


def _task(level: str) -> Task:
    env_id = f"BabyAI-{level}-v0"
    known = registered_ids("BabyAI-")
    if env_id not in known:
        raise UnknownTaskError(f"babyai has no level {level!r}{did_you_mean(level, [*map(_short, sorted(known)), *SETS])}")
    return Task(
        name=level,
        make_env=functools.partial(_make_level, env_id),
        success_return=0.0,
        envpool_id=env_id if env_id in known_to_envpool() else None,
        description=by_beginning(level, BABYAI),
    )


def _make_level(env_id: str, render_mode: str | None = None) -> gymnasium.Env:
    _silence_rejections()
    return make_registered(env_id, render_mode)


@functools.cache
def _silence_rejections() -> None:
    """Stops minigrid from printing a line for every world that it draws and rejects. Done once in a process."""
    from minigrid.envs.babyai.core import roomgrid_level

    roomgrid_level.print = lambda *_: None  # a name in that module, which hides the builtin there and nowhere else
