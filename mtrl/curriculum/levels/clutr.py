"""CLUTR's levels of one task (Azad et al. 2023): a teacher proposes them in the latent space of an autoencoder that was trained first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import Task
from mtrl.config import LevelsConfig
from mtrl.curriculum.levels.autoencoder import AutoencoderSettings, LevelAutoencoder, levels_of, new_autoencoder, trained_autoencoder
from mtrl.curriculum.levels.buffer import LevelBuffer
from mtrl.curriculum.levels.plan import LevelPlan
from mtrl.curriculum.levels.scores import LevelEpisode, score_of
from mtrl.curriculum.levels.teacher import NOISE, Teacher

WAITING = 4096  # newest proposals, which several slots may play; episodes on older ones teach nothing


class ClutrSampler:
    """Plans proposals of the teacher, and teaches it by the scores of their episodes.

    The paper measures regret by a second student, as the difference of both returns. Here one policy learns, and the score of its episode
    stands for its regret. All that is random depends on the seed, the task, the clock and the number of proposals.

    Args:
        config: the sampler's settings.
        task: a task with level parameters.
        seed: of the experiment.
        place: the task's place among those of the suite.
    """

    def __init__(self, config: LevelsConfig, task: Task, seed: int, place: int):
        assert task.level_parameters is not None
        self.clock = 0  # episodes that have ended
        self._config, self._space, self._key = config, task.level_parameters, (seed, place)
        self.buffer = LevelBuffer(config.buffer_size, len(self._space.names))  # of proposals that were played, for those who explain
        self._settings = AutoencoderSettings(config.latent_size, config.autoencoder_updates, config.training_levels)
        self._autoencoder: LevelAutoencoder | None = None  # None: to be trained
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((seed, place)).generate_state(1)[0]))
            self._teacher = Teacher(config.latent_size, config.teacher_learning_rate, config.teacher_entropy_cost)
        self._waiting: dict[int, _Proposal] = {}  # by number
        self._planned: list[int] = []  # proposals since the teacher's last update that were not played
        self._played: list[tuple[_Proposal, float]] = []  # with their scores, since the last update
        self._num_proposals = 0  # so far
        self._plan: LevelPlan | None = None  # None: to be made

    def add(self, episode: LevelEpisode) -> None:
        """Rates the proposal of an episode; the teacher learns from every `teacher_batch` of them."""
        self.clock += 1
        proposal, number = self._waiting.get(episode.level), episode.level
        if proposal is None:
            return
        best = max(self.buffer.best_return(number), episode.episode_return)
        score = score_of(self._config.score, episode, best)
        if number in self.buffer:
            self.buffer.update(number, score, best, self.clock)
        else:
            self.buffer.offer(number, proposal.parameters, score, best, self.clock)
        if number in self._planned:
            self._planned.remove(number)
        self._played.append((proposal, score))
        self._plan = None
        if len(self._played) >= self._config.teacher_batch:
            self._teach()

    def plan(self) -> LevelPlan:
        """The newest proposals, all alike."""
        if self._plan is None:
            if len(self._planned) <= self._config.teacher_batch // 2:
                self._propose(self._config.teacher_batch - len(self._planned))
            count = len(self._planned)
            parameters = np.stack([self._waiting[number].parameters for number in self._planned])
            self._plan = LevelPlan(np.array(self._planned, np.int64), parameters, np.full(count, 1.0 / count), np.zeros(count, bool))
        return self._plan

    def plan_scores(self) -> np.ndarray:
        """The scores that the teacher expects of the plan's proposals, [L]."""
        with torch.no_grad():
            values = self._teacher.value(torch.stack([self._waiting[number].noise for number in self.plan().numbers.tolist()]))
        return values[:, 0].numpy().astype(float)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next plan depends on."""
        self.plan()
        return {
            "clock": self.clock,
            "buffer": self.buffer.state_dict(),
            "autoencoder": self._latent_space().state_dict(),
            "teacher": self._teacher.everything(),
            "waiting": {"numbers": np.array(list(self._waiting), np.int64), **_arrays(list(self._waiting.values()))},
            "planned": np.array(self._planned, np.int64),
            "played": {"scores": np.array([score for _, score in self._played]), **_arrays([proposal for proposal, _ in self._played])},
            "count": self._num_proposals,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.clock, self._num_proposals = int(state["clock"]), int(state["count"])
        self.buffer.load_state_dict(state["buffer"])
        self._autoencoder = new_autoencoder(self._space, self._settings).requires_grad_(False)
        self._autoencoder.load_state_dict(state["autoencoder"])
        self._teacher.load_everything(state["teacher"])
        self._waiting = dict(zip(state["waiting"]["numbers"].tolist(), _proposals(state["waiting"]), strict=True))
        self._planned = state["planned"].tolist()
        self._played = list(zip(_proposals(state["played"]), state["played"]["scores"].tolist(), strict=True))
        self._plan = None

    def _latent_space(self) -> LevelAutoencoder:
        if self._autoencoder is None:
            self._autoencoder = trained_autoencoder(self._space, self._settings)
        return self._autoencoder

    def _propose(self, count: int) -> None:
        rng = np.random.default_rng((*self._key, self.clock, self._num_proposals))
        noise, drawn = (
            torch.from_numpy(rng.standard_normal((count, size)).astype(np.float32)) for size in (NOISE, self._config.latent_size)
        )
        with torch.no_grad():
            wanted = self._teacher.distribution(noise)
            latents = wanted.mean + wanted.stddev * drawn
            log_probs = self._teacher.log_prob(noise, latents)
        parameters = levels_of(self._latent_space(), self._space, latents, rng)
        for row in range(count):
            number = self._config.training_levels + self._num_proposals
            self._waiting[number] = _Proposal(noise[row], latents[row], log_probs[row], parameters[row])
            self._planned.append(number)
            self._num_proposals += 1
        for number in list(self._waiting)[: max(0, len(self._waiting) - WAITING)]:
            del self._waiting[number]

    def _teach(self) -> None:
        proposals, scores = zip(*self._played, strict=True)
        noise, latents, log_probs = (torch.stack([getattr(each, name) for each in proposals]) for name in ("noise", "latents", "log_prob"))
        self._teacher.update(noise, latents, log_probs, torch.tensor(scores, dtype=torch.float32))
        self._played, self._planned = [], []


class _Proposal(NamedTuple):
    """A level that the teacher has proposed."""

    noise: Tensor  # [n], what it observed
    latents: Tensor  # [L], what it chose
    log_prob: Tensor  # [], of this choice
    parameters: np.ndarray  # [P], the level


def _arrays(proposals: list[_Proposal]) -> dict[str, np.ndarray]:
    return {name: np.array([np.asarray(getattr(each, name)) for each in proposals]) for name in _Proposal._fields}


def _proposals(arrays: dict[str, np.ndarray]) -> list[_Proposal]:
    noise, latents, log_probs = (torch.as_tensor(arrays[name]) for name in ("noise", "latents", "log_prob"))
    return [_Proposal(*row) for row in zip(noise, latents, log_probs, arrays["parameters"], strict=True)]
