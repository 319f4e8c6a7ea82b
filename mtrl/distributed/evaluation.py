"""Evaluation jobs as Ray tasks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import ray

from envs import Episode
from mtrl.distributed.cluster import start_ray
from mtrl.distributed.start import free_resources
from mtrl.evaluation.jobs import JOB_SECONDS, Job, StuckError, play_job

SILENT_SECONDS = 30.0  # without the end of a job, before it is said what is waited for

logger = logging.getLogger("mtrl")


def play_on_ray(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
    """Plays jobs wherever the cluster has a free core; a job whose worker died is played again elsewhere."""
    start_ray()
    remote = ray.remote(num_cpus=1, max_retries=3)(play_job)
    running, ended = {remote.remote(job): job for job in jobs}, time.monotonic()
    while running:
        done, _ = ray.wait(list(running), num_returns=1, timeout=SILENT_SECONDS)
        if not done:
            if time.monotonic() - ended > JOB_SECONDS:
                raise StuckError(len(running))
            logger.warning("waiting for %d evaluation jobs: Ray has %s", len(running), free_resources())
            continue
        ended = time.monotonic()
        yield running.pop(done[0]), ray.get(done[0])
