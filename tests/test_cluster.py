"""The files for clusters, and what `doctor --cluster` finds: on a real local cluster of two nodes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.cluster_utils import Cluster

from mtrl.distributed.surroundings import ENVIRONMENT

ROOT = Path(__file__).parents[1]
FILES = ROOT / "configs" / "cluster"


def entrypoint(text: str) -> list[str]:
    """The arguments of the one `python launch.py` in a text."""
    joined = re.sub(r"\s*\\\n\s*|\n#\s+", " ", text)
    (line,) = {match.group(1).strip().strip("'") for match in re.finditer(r"python launch\.py ([^\n']*)", joined)}
    return shlex.split(line)


def commands() -> dict[str, list[str]]:
    """What each file runs on the driver."""
    job = yaml.safe_load((FILES / "kuberay-rayjob.yaml").read_text())
    return {
        "slurm": entrypoint((FILES / "slurm.sbatch").read_text()),
        "kuberay": entrypoint(job["spec"]["entrypoint"]),
        "ray up": entrypoint((FILES / "ray-cluster.yaml").read_text()),
        "ray job submit": entrypoint(re.search(r"`ray job submit .*? -- ([^`]*)`", (ROOT / "docs" / "cluster.md").read_text()).group(1)),
    }


@pytest.fixture(scope="module")
def cluster():
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    kept = dict(os.environ)
    os.environ.update(environment)
    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(**small)
    cluster.wait_for_nodes()
    yield environment | {"RAY_ADDRESS": cluster.address}
    cluster.shutdown()
    os.environ.clear()
    os.environ.update(kept)


def launch(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments], env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT
    )


def test_slurms_script_is_bash_and_asks_to_be_warned():
    text = (FILES / "slurm.sbatch").read_text()
    assert subprocess.run(["bash", "-n", str(FILES / "slurm.sbatch")]).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M))
    assert {"nodes", "requeue", "signal", "cpus-per-task"} <= set(options) and options["signal"].startswith("TERM@")
    assert int(options["nodes"]) * int(options["cpus-per-task"]) - 2 == int(re.search(r"RUNNERS:-(\d+)", text).group(1))
    help_text = subprocess.run([str(Path(sys.executable).parent / "ray"), "symmetric-run", "--help"], capture_output=True, text=True).stdout
    assert "--min-nodes" in help_text and "--address" in help_text


def test_kuberays_job_is_one():
    job = yaml.safe_load((FILES / "kuberay-rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert all(mount["name"] in volumes for container in pod["containers"] for mount in container["volumeMounts"])
    cores = sum(int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) for group in groups)
    arguments = commands()["kuberay"]
    assert int(arguments[arguments.index("--num-env-runners") + 1]) <= cores - 2
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["working_dir"] == "/app"


def test_ray_up_takes_its_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((FILES / "ray-cluster.yaml").read_text()))
    validate_config(prepared)  # raises
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("name", ["slurm", "kuberay", "ray up", "ray job submit"])
def test_what_the_files_run_is_a_command_of_ours(name):
    from mtrl.cli.arguments import parse_with_experiment
    from mtrl.cli.commands.train import TrainOptions
    from mtrl.cli.shared import find_config
    from mtrl.config import load_config, override
    from mtrl.training.batch_size import few_updates

    command, *arguments = [os.path.expandvars(part) for part in commands()[name]]
    assert command == "train" and "--auto-resume" in arguments
    arguments = [
        {"$CONFIG": "minigrid_mt7", "$RUN_DIR": "runs/x", "$RUNNERS": "62", "$FRAMES": "4e7"}.get(part, part) for part in arguments
    ]
    options, config = parse_with_experiment(TrainOptions(), arguments, "x", "x", lambda options: load_config(find_config(options.config)))
    assert options.run_dir is not None and config.env_runners.num_env_runners >= 30
    assert few_updates(config) is None
    assert "makes 9 updates" in few_updates(override(load_config("configs/minigrid_mt7.yaml"), {"env_runners.num_env_runners": 62}))


def test_doctor_and_a_job_that_begins_again(cluster, tmp_path):
    """With a token in the home folder, which every local Ray leaves there and this cluster does not ask for."""
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("ab" * 32)
    cluster = cluster | {"HOME": str(tmp_path / "home")}
    small = ["--num-env-runners", "2", "--run-dir", str(tmp_path / "run")]
    found = launch(["doctor", "--cluster", "toy", *small], cluster)
    assert found.returncode == 0, found.stdout + found.stderr
    said = " ".join(found.stdout.split())
    assert "2, 2 cores" in said and "2 fit" in said and "the same on all nodes (code" in said and "is the same on all nodes" in said
    assert "one of each task steps on all nodes" in said and "one update and a checkpoint" in said
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    refused = launch(["doctor", "--cluster", "toy", "--num-env-runners", "3"], cluster)
    assert refused.returncode == 1 and "needs 3 CPU, but Ray has 2" in " ".join(refused.stdout.split())

    # As Slurm's script has it: the same command begins the run and goes on with it.
    command = ["train", "toy", *small, "--auto-resume", "--total-frames", "1000"]
    first = launch(command, cluster)
    assert first.returncode == 0, first.stdout + first.stderr
    again = launch([*command[:-1], "2000"], cluster)
    assert again.returncode == 0 and "resumed" in again.stdout, again.stdout + again.stderr
