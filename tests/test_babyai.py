"""BabyAI's missions: in words both backends agree on, solved by its own bot, and read by the encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import toy_config
from minigrid.utils.baby_ai_bot import BabyAIBot

from envs import SuiteError, UnknownTaskError, make_suite, make_vector
from envs.suites.babyai import MISSION_LENGTH, NUMBERS, WORDS, words_of
from mtrl.config import ModelConfig
from mtrl.evaluation.protocols import protocol_of
from mtrl.models.encoders import MissionEncoder
from mtrl.training.trainer import build_trainer

LEVELS = make_suite("babyai/8")


def sentence(numbers: np.ndarray) -> str:
    return " ".join(WORDS[number - 1] for number in numbers if number)


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_missions_are_sentences_of_their_level(backend):
    tasks = make_vector(LEVELS, 32, backend=backend, seed=3)
    observed = tasks.reset()
    assert observed["image"].shape == (32, 7, 7, 3) and observed["mission"].shape == (32, MISSION_LENGTH)
    missions = {LEVELS.names[task]: sentence(row) for task, row in zip(tasks.task_ids, observed["mission"], strict=True)}
    tasks.close()
    assert missions["GoToRedBall"] == missions["GoToRedBallGrey"] == "go to the red ball"
    assert missions["GoToLocal"].startswith("go to ") and missions["PickupLoc"].startswith("pick up ")
    assert missions["PutNextLocal"].startswith("put ") and " next to " in missions["PutNextLocal"]


@pytest.mark.parametrize("level", ["GoToLocal", "PutNextLocal", "PickupLoc"])
def test_backends_draw_the_same_missions(level):
    """Not the same streams, but the same words about equally often."""
    suite, slots = make_suite(f"babyai/{level}"), 400
    found = {}
    for backend in suite.backends:
        tasks = make_vector(suite, slots, backend=backend, seed=0)
        numbers = tasks.reset()["mission"]
        found[backend] = np.array(
            [(numbers == NUMBERS[word]).any(axis=1).mean() for word in ("red", "grey", "ball", "key", "box", "the", "a")]
        )
        tasks.close()
    # Four deviations of a share of 400.
    np.testing.assert_allclose(found["envpool"], found["gymnasium"], atol=4 * np.sqrt(2 * 0.25 / slots))


@pytest.mark.parametrize("level", ["GoToObj", "GoToRedBallGrey", "GoToLocal", "PutNextLocal"])
def test_babyais_own_bot_succeeds(level):
    suite = make_suite(f"babyai/{level}")
    tasks = make_vector(suite, 1, backend="gymnasium", seed=1)
    tasks.reset()
    episodes = []
    while len(episodes) < 3:
        env = tasks._backend._places[0][0]._env.unwrapped
        bot, action, done = BabyAIBot(env), None, False
        while not done:
            action = bot.replan(action)
            step = tasks.step(np.array([int(action)]))
            episodes += step.episodes
            done = bool(step.episodes)
        tasks.step(np.array([0]))  # the reset
    tasks.close()
    assert all(episode.success for episode in episodes)
    assert suite.score(0, episodes[0].episode_return, float(episodes[0].success)) == 1.0


def test_levels_are_drawn_without_a_word(capsys):
    env = make_suite("babyai/GoTo").tasks[0].make_env()
    env.reset(seed=1)  # minigrid rejects a world of this seed, and says so
    assert capsys.readouterr().out == ""


def test_words_that_nobody_knows_are_refused():
    assert (
        sentence(words_of("put the red ball next to the blue box, then open a door"))
        == "put the red ball next to the blue box then open a door"
    )
    with pytest.raises(SuiteError, match="the word 'dance'"):
        words_of("dance")
    with pytest.raises(SuiteError, match="73 words"):
        words_of("go " * 73)
    with pytest.raises(UnknownTaskError, match="did you mean GoToLocal"):
        make_suite("babyai/GoToLocl")


def test_the_encoder_reads_order_and_not_padding():
    torch.manual_seed(0)
    encoder = MissionEncoder(LEVELS.observation_space, ModelConfig(experts=2), LEVELS.num_tasks)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 7, 7, 3)).astype(np.uint8))

    def features(*missions: str) -> torch.Tensor:
        words = torch.from_numpy(np.stack([words_of(mission) for mission in missions]))
        return encoder({"image": image.expand(len(missions), -1, -1, -1), "mission": words}, torch.zeros(len(missions), dtype=torch.int64))

    there, back, longer = (
        "put the ball next to the key",
        "put the key next to the ball",
        "put the ball next to the key then open the red door",
    )
    both = features(there, back, there, longer)
    assert both.shape == (4, 2, encoder.feature_size)
    assert (both[0] - both[1]).abs().max() > 1e-3  # the same words
    torch.testing.assert_close(both[0], both[2])
    torch.testing.assert_close(both[0], features(there)[0], rtol=1e-5, atol=1e-5)  # whatever else is in the batch


def test_trains_with_a_memory_and_is_scored_by_its_protocol():
    trainer = build_trainer(toy_config("babyai/8", env_runners__slots=8, model__memory=True, model__memory_size=8))
    for _ in range(2):
        assert trainer.step()
    assert trainer.frames > 0
    trainer.close()
    assert protocol_of(LEVELS).name == "babyai-512-v1" and protocol_of(LEVELS).actions == "greedy"
