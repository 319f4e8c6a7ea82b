"""What an experiment should ask of a machine: runners, slots, threads, device and precision."""

from __future__ import annotations

from typing import NamedTuple

from mtrl.config import ExperimentConfig
from mtrl.config.advice import Advice

GIB = 2**30
PROCESS_BYTES = GIB  # torch and a simulator in one process
MANY_RUNNERS = 4  # from which a batch of one rollout would be learned from too late


class Machine(NamedTuple):
    """What there is."""

    cores: float  # that this process may keep busy
    memory: float  # bytes that are free
    gpus: int
    bfloat16: bool  # whether the learner's device multiplies it in hardware


def advise(config: ExperimentConfig, machine: Machine) -> list[Advice]:
    """Values for this machine. Those that the experiment's learning depends on stay as they are, but for the size of a batch where many
    runners fill it.
    """
    cores = max(1, int(machine.cores))
    fit = max(0, int(machine.memory / PROCESS_BYTES) - 1)
    kept = 2 if machine.gpus and cores > 3 else 1  # for the learner, and with a GPU for the rollouts that arrive while it works
    runners = min(cores - kept, fit)
    advice = []
    if runners < 1:
        why = "one core" if cores == 1 else "memory for one process"
        advice.append(Advice("env_runners.num_env_runners", 0, f"{why}: one process collects and learns in turns"))
    else:
        limit = "" if runners == cores - kept else f" and {machine.memory / GIB:.0f} GiB"
        advice.append(Advice("env_runners.num_env_runners", runners, f"{cores} cores{limit}, of which the learner needs {kept}"))
    if runners >= MANY_RUNNERS and config.learner.rollouts_per_update != "auto":
        advice.append(Advice("learner.rollouts_per_update", "auto", f"batches of {runners} runners grow with their number"))
    device = "cuda" if machine.gpus else "cpu"
    advice.append(Advice("learner.device", device, "a GPU that PyTorch can use" if machine.gpus else "no GPU that PyTorch can use"))
    precision = "bfloat16" if machine.bfloat16 else "float32"
    found = "has" if machine.bfloat16 else "does not have"
    advice.append(Advice("learner.precision", precision, f"the device {found} bfloat16 in hardware"))
    advice.append(Advice("env_runners.slots", config.env_runners.slots, _of_slots(config)))
    threads = None if config.learner.threads is not None and config.learner.threads > cores else config.learner.threads
    why = "null follows the cores that are free" if threads is None else f"as the experiment has it, of {cores} cores"
    advice.append(Advice("learner.threads", threads, why))
    return advice


def _of_slots(config: ExperimentConfig) -> str:
    slots, steps = config.env_runners.slots, config.env_runners.unroll_length
    batch = f"{slots} slots x {steps} steps are the rollout that the experiment's learning rate was found with"
    return f"{batch}; `check` says whether that many environments fit into memory"
