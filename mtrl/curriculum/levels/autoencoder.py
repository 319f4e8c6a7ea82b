"""The latent space of levels: a recurrent variational autoencoder of their sequences, as in CLUTR (Azad et al. 2023)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Normal

from envs.levels import LevelSpace

SUMMARY = 16  # numbers of a step between an LSTM and the latent numbers
HIDDEN = 64  # units of each LSTM
BATCH = 64  # levels of an update
LEARNING_RATE = 4e-3
LEAST_LOG_DEVIATION = -2.5  # of the decoder: about half a cell of 13
DIVERGENCE_COST = 0.1  # at 1, a number that is encoded costs as much as it gains, and hardly any is


class AutoencoderSettings(NamedTuple):
    """The size of the latent space, and how it is learned."""

    latent_size: int  # (L)
    updates: int
    levels: int  # training levels that it is learned from


class LevelAutoencoder(nn.Module):
    """Encodes sequences of S vectors with F numbers as a normal distribution over L numbers, and decodes those as one over sequences.

    The decoder sees nothing of the sequence, so that it cannot do without the latent numbers. How exactly they say each number of the
    sequence is learned, too: what they leave open is drawn at random.
    """

    def __init__(self, length: int, features: int, latent_size: int):
        super().__init__()
        self.encoder = nn.LSTM(features, HIDDEN, batch_first=True, bidirectional=True)
        self.to_summary = nn.Linear(2 * HIDDEN + features, SUMMARY)
        self.to_latent = nn.Linear(length * SUMMARY, 2 * latent_size)
        self.to_steps = nn.Linear(latent_size, length * SUMMARY)
        self.decoder = nn.LSTM(SUMMARY, HIDDEN, batch_first=True)
        self.to_means = nn.Linear(HIDDEN + SUMMARY, features)
        self.log_deviations = nn.Parameter(torch.zeros(length, features))

    def encode(self, sequences: Float[Tensor, "N S F"]) -> Normal:
        """The distributions of the levels' latent numbers, [N, L]."""
        steps, _ = self.encoder(sequences)
        mean, log_deviation = self.to_latent(self.to_summary(torch.cat([steps, sequences], dim=-1)).flatten(1)).chunk(2, dim=-1)
        return Normal(mean, log_deviation.exp())

    def decode(self, latents: Float[Tensor, "N L"]) -> Normal:
        """The distributions of the sequences, [N, S, F]."""
        given = self.to_steps(latents).unflatten(1, (len(self.log_deviations), SUMMARY))
        steps, _ = self.decoder(given)
        deviations = (LEAST_LOG_DEVIATION + nn.functional.softplus(self.log_deviations - LEAST_LOG_DEVIATION)).exp()
        return Normal(self.to_means(torch.cat([steps, given], dim=-1)), deviations)

    def loss(self, sequences: Float[Tensor, "N S F"], divergence_cost: float, generator: torch.Generator) -> Tensor:
        """The sequences' negative log-likelihood and the weighted distance of the latent numbers to the prior, the mean over levels."""
        encoded = self.encode(sequences)
        latents = encoded.mean + encoded.stddev * torch.randn(encoded.mean.shape, generator=generator)
        unlikely = -self.decode(latents).log_prob(sequences).sum(dim=(1, 2)).mean()
        divergence = torch.distributions.kl_divergence(encoded, Normal(0.0, 1.0)).sum(dim=-1).mean()
        return unlikely + divergence_cost * divergence


def train_autoencoder(space: LevelSpace, settings: AutoencoderSettings) -> LevelAutoencoder:
    """Learns the latent space of the training levels. The result depends on the arguments alone.

    The weight of the divergence grows from 0 in the first half of the updates.
    """
    sequences = torch.from_numpy(space.sequences_of(space.of_training_levels(settings.levels)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums, and with it the result, depends on their number
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            autoencoder = new_autoencoder(space, settings)
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(autoencoder.parameters(), LEARNING_RATE)
        for done in range(settings.updates):
            drawn = sequences[torch.randint(len(sequences), (BATCH,), generator=generator)]
            loss = autoencoder.loss(drawn, DIVERGENCE_COST * min(1.0, 2 * done / settings.updates), generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(autoencoder.parameters(), 10.0)
            optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return autoencoder.requires_grad_(False)


def trained_autoencoder(space: LevelSpace, settings: AutoencoderSettings) -> LevelAutoencoder:
    """`train_autoencoder`, once on a machine: the weights are kept in the user's cache, if they can be."""
    cached = _cache() / f"{_fingerprint(space, settings)}.safetensors"
    autoencoder = new_autoencoder(space, settings)
    with contextlib.suppress(OSError, SafetensorError, RuntimeError):  # none, or a damaged one
        autoencoder.load_state_dict(load_file(cached))
        return autoencoder.requires_grad_(False)
    autoencoder = train_autoencoder(space, settings)
    with contextlib.suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}")
        save_file(autoencoder.state_dict(), partial)
        partial.replace(cached)
    return autoencoder


def new_autoencoder(space: LevelSpace, settings: AutoencoderSettings) -> LevelAutoencoder:
    """An autoencoder that has learned nothing."""
    _, length, features = space.sequences_of(space.of_training_levels(1)).shape
    return LevelAutoencoder(length, features, settings.latent_size)


def levels_of(autoencoder: LevelAutoencoder, space: LevelSpace, latents: Float[Tensor, "N L"], rng: np.random.Generator) -> np.ndarray:
    """Levels drawn from the decoder's distributions for N latent vectors, [N, P]."""
    with torch.no_grad():
        decoded = autoencoder.decode(latents)
    noise = rng.standard_normal(decoded.mean.shape, np.float32)
    return space.of_sequences(decoded.mean.numpy() + decoded.stddev.numpy() * noise)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtrl-trainer" / "autoencoders"


def _fingerprint(space: LevelSpace, settings: AutoencoderSettings) -> str:
    said = f"{space} {settings} {HIDDEN} {SUMMARY} {BATCH} {LEARNING_RATE} {LEAST_LOG_DEVIATION} {DIVERGENCE_COST} {torch.__version__}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]
