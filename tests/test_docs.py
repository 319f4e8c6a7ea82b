"""The documentation says what the code does: links resolve, examples run, and nothing that a user can set or read is missing."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from mtrl.cli.dispatch import COMMANDS
from mtrl.config import ExperimentConfig, Section
from mtrl.training.metrics import METRICS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


IN_TURNS = """
import json, sys
sys.path[0] = sys.argv[1]
from mtrl.cli import main
sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[2])))
"""
"""Several commands in one process, which does not look for modules in its folder."""


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fields(section: type[Section], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Section)
        names += fields(inner, f"{prefix}{name}.") if nested else [prefix + name]
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    ("name", "option", "runners"),
    [
        ("gate", "--model.gate my_gate:make", 1),
        ("head", "--model.heads my_head:SharedHidden", 0),
        ("encoder", "--model.encoder my_encoder:SineEncoder", 0),
        ("scheduler", "--curriculum.scheduler my_scheduler:Hardest", 0),
        ("balancer", "--learner.balancing my_balancer:InverseLoss", 0),
    ],
)
def test_code_of_ones_own_is_named_in_the_experiment(name, option, runners, tmp_path):
    """As the guide says: the file is in the current folder, the option names it; what goes on from the run finds it as well."""
    assert f"train toy {option}\n" in (ROOT / "docs" / "guides" / f"own-{name}.md").read_text()
    shutil.copy(ROOT / "docs" / "examples" / f"my_{name}.py", tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    launch = str(ROOT / "launch.py")
    run(launch, "train", "toy", *option.split(), "--total-frames", "600", "--num-env-runners", str(runners), "--run-dir", "run")
    later = ["train --resume run --total-frames 1200", "evaluate run --episodes 2"]
    later += {"scheduler": ["explain run"], "balancer": []}.get(name, ["export run --format pt2"])
    commands = [command.split() for command in later]
    # Each command finds the file by itself; for all but one of the files, a single process is asked.
    each_alone = runners > 0
    said = "".join(run(launch, *command) for command in commands) if each_alone else run("-c", IN_TURNS, str(ROOT), json.dumps(commands))
    assert "mean score" in said
    assert name != "scheduler" or "all as they were logged" in said
    if name == "encoder":  # the program's own has hidden layers of another size
        weights = load_file(sorted((tmp_path / "run" / "policy").rglob("weights.safetensors"))[-1])
        assert weights["actor.trunk.encoder.experts.0.weight"].shape == (32, 8)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_shown_whole(example):
    assert len(example.read_text().splitlines()) <= 40
    assert any(f'--8<-- "docs/examples/{example.name}"' in page.read_text() for page in PAGES)


def test_every_field_metric_and_command_is_in_the_reference():
    pages = hooks()
    configuration, metrics = pages.configuration(), pages.metrics()
    assert [name for name in fields(ExperimentConfig) if f"`{name}`" not in configuration] == []
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in metrics] == []
    commands = (ROOT / "docs" / "commands.md").read_text() + pages.commands()
    assert [name for name in COMMANDS if f"launch.py {name}" not in commands] == []
    assert pages.on_page_markdown("<!-- generated: metrics -->") == metrics


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "experiments").glob("*.py")), ids=lambda path: path.stem)
def test_what_the_measuring_scripts_import_exists(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("mtrl", "envs"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}"), alias.name


def test_the_drawing_of_the_layers_is_the_linters():
    spec = importlib.util.spec_from_file_location("draw_diagrams", ROOT / "docs" / "experiments" / "draw_diagrams.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "layers.svg").read_text() == module.layers()


def test_the_site_builds(tmp_path):
    """Strictly: a page that is not in the navigation, a broken link or a docstring that cannot be read is an error."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "learner.max_queued_batches" in (tmp_path / "site" / "configuration" / "index.html").read_text()
