"""Experiments: files, defaults, and what is said about a fault."""

import math
from pathlib import Path

import pytest

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig, dump_yaml, flatten, load_config, override, parse_config, read_scalar, without_effect
from mtrl.config.effects import RULES

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def fault(changes: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        override(ExperimentConfig(), changes)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_experiments_load_and_have_a_slot_for_each_task(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.env_runners.slots >= make_suite(config.suite.name).num_tasks


def test_experts_are_the_published_numbers() -> None:
    experts = {config.name: config.model.experts for config in map(load_config, CONFIGS)}
    assert (experts["minigrid_mt3"], experts["minigrid_mt5"], experts["minigrid_mt7"]) == (2, 3, 4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_full_experiment_survives_a_file(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_yaml(config))
    assert load_config(copy) == config


def test_an_empty_file_is_the_default_with_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("")
    assert load_config(path) == ExperimentConfig(name="mine")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e6", 3e6),
        ("1e-3", 1e-3),
        ("2.5E+2", 250.0),
        ("6_000_000", 6_000_000),
        ("-1", -1),
        ("null", None),
        ("true", True),
        ("adam", "adam"),
    ],
)
def test_scalars_mean_what_a_reader_expects(text: str, value: object) -> None:
    assert read_scalar(text) == value
    assert type(read_scalar(text)) is type(value)


def test_numbers_in_exponent_form_work_in_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("total_frames: 3e6\nlearner: {actor: {learning_rate: 3e-4}}")
    assert load_config(path).total_frames == 3_000_000
    assert math.isclose(load_config(path).learner.actor.learning_rate, 3e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner.discount": 2}, "learner.discount: must be less than or equal to 1, got 2"),
        ({"total_frames": 2.5}, "total_frames: must be a valid integer, got 2.5"),
        ({"total_frames": "many"}, "total_frames: must be a valid integer, got 'many'"),
        ({"learner.precision": "half"}, "learner.precision: must be 'auto', 'float32' or 'bfloat16', got 'half'"),
        ({"learner.value_cost": math.inf}, "learner.value_cost: must be a finite number, got inf"),
        ({"learner.value_cost": math.nan}, "learner.value_cost: must be a finite number, got nan"),
        ({"learner.rho_bar": 1e308}, "learner.rho_bar: must be less than or equal to 1000000000, got 1e+308"),
        ({"env_runners.slots": 10**11}, "env_runners.slots: must be less than or equal to 1000000, got 100000000000"),
        ({"name": "../x"}, "name: must name a folder in runs, got '../x'"),
        ({"name": "a\nb"}, "name: must name a folder in runs, got 'a\\nb'"),
        ({"learner": 3}, "learner: is a section with fields of its own, got 3"),
        ({"suite.nam": "x"}, "suite.nam: unknown field; did you mean name?"),
        ({"learner.actor.learnin_rate": 1}, "learner.actor.learnin_rate: unknown field; did you mean learning_rate?"),
        ({"modle.experts": 3}, "modle: unknown field; did you mean model?"),
        ({"learner.c_bar": 2}, "learner.c_bar is 2.0, above learner.rho_bar 1.0: V-trace needs rho_bar >= c_bar"),
    ],
)
def test_a_fault_names_field_value_and_what_would_do(changes: dict[str, object], message: str) -> None:
    assert fault(changes) == message


def test_every_fault_is_named() -> None:
    assert fault({"seed": -1, "env_runners.slots": 0}).splitlines() == [
        "seed: must be greater than or equal to 0, got -1",
        "env_runners.slots: must be greater than or equal to 1, got 0",
    ]


def test_the_number_of_actor_steps_is_said_once() -> None:
    changes = {"learner.epochs": 2, "learner.actor_updates": 3}
    assert "learner.actor_updates 3 and learner.epochs 2 both say how often" in fault(changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "holds a list"),
        ("a: [", "is not YAML: line 1, column 5: "),
        ("a: 1\nb: [1\nc: 2\n", "line 3, column 2: expected ',' or ']', but got ':', while parsing a flow sequence that begins in line 2"),
        ("a:\n\tb: 1", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("seed: 1\nseed: 2\n", "line 2, column 1: seed is given twice"),
        ("seed: 2026-13-45", "is not YAML: "),
        ("learner: {discount: 3}", "learner.discount: must be less than or equal to 1, got 3"),
    ],
)
def test_a_fault_in_a_file_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the experiment .*none\.yaml: No such file or directory"):
        load_config(tmp_path / "none.yaml")


def test_override_leaves_the_original_and_checks_everything_again() -> None:
    config = parse_config({})
    assert override(config, {"learner.discount": 0.9}).learner.discount == 0.9
    assert config.learner.discount == 0.99


def test_settings_without_effect_are_named() -> None:
    config = override(ExperimentConfig(), {"model.memory_size": 64, "learner.clip": 0.1, "learner.critic_updates": 3, "faults.budget": 9})
    assert without_effect(config) == [
        "model.memory_size is 64, but has no effect without model.memory true",
        "learner.clip is 0.1, but has no effect without learner.surrogate clipped",
    ]
    one_process = override(config, {"env_runners.num_env_runners": 0, "model.memory": True, "learner.surrogate": "clipped"})
    assert without_effect(one_process) == ["faults.budget is 9, but has no effect without env_runners.num_env_runners above 0"]
    shared = override(config, {"model.trunks": "shared", "learner.critic.learning_rate": 0.5})
    assert sum("without model.trunks separate" in sentence for sentence in without_effect(shared)) == 2


def test_the_rules_name_fields_that_exist() -> None:
    names = set(flatten(ExperimentConfig().model_dump()))
    for rule in RULES:
        for field in rule.fields:
            assert any(name == field or name.startswith(f"{field}.") for name in names), field


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_everything_in_a_shipped_experiment_has_an_effect(path: Path) -> None:
    assert without_effect(load_config(path)) == []


@pytest.mark.parametrize("text", ["1e-3", "3e-4", "2e5", "1_0e5", "true", "null", "0x1f", "1:30", "~", ""])
def test_strings_that_look_like_something_else_come_back_as_strings(text, tmp_path):
    config = override(
        load_config("configs/toy.yaml"), {"curriculum.scheduler": "fixed", "curriculum.options": {"weights": {text or "a": 1.0}}}
    )
    (tmp_path / "experiment.yaml").write_text(dump_yaml(config))
    assert load_config(tmp_path / "experiment.yaml") == config
    if text:
        (tmp_path / "named.yaml").write_text(dump_yaml(override(config, {"name": text})))
        assert load_config(tmp_path / "named.yaml").name == text
