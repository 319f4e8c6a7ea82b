"""Evaluation jobs as Ray tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ray

from envs import Episode
from mtrl.distributed.cluster import start_ray
from mtrl.evaluation.jobs import Job, play_job


def play_on_ray(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
    """Plays jobs wherever the cluster has a free core; a job whose worker died is played again elsewhere."""
    start_ray()
    remote = ray.remote(num_cpus=1, max_retries=3)(play_job)
    running = {remote.remote(job): job for job in jobs}
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(done), ray.get(done)
