"""Starts a node of a Ray cluster: `python -m mtrl.distributed.node OPTIONS` is `ray start --block OPTIONS`, with workers that are forked.

Without it a worker on the node imports its packages itself, which takes four seconds of a core (`mtrl.distributed.fork_server`).
"""

from __future__ import annotations

import sys

from mtrl.distributed import fork_server


def main(options: list[str]) -> None:
    """Runs the node until it is stopped.

    Args:
        options: those of `ray start`.
    """
    forks = fork_server.start(of_cluster=True)
    from ray.scripts.scripts import cli

    from mtrl.distributed.local_ray import workers_from

    with workers_from(forks):
        cli(["start", *options, *([] if "--block" in options else ["--block"])], prog_name="ray")


if __name__ == "__main__":
    main(sys.argv[1:])
