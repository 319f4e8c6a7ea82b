"""What the machine around a command may be like: it trains there, or says in one sentence why not, and `doctor` says the same before."""

from __future__ import annotations

from pathlib import Path

import pytest
from surroundings import CHOICES, Surroundings, can_be_made, doctor_and_train, draw

in_namespaces = pytest.mark.skipif(not can_be_made(), reason="mounts in a namespace need root")


@pytest.mark.slow
@in_namespaces
@pytest.mark.parametrize("seed", range(100))
def test_drawn_surroundings(seed: int, tmp_path: Path) -> None:
    check(draw(seed), tmp_path)


def check(here: Surroundings, scratch: Path) -> None:
    """One sentence, or a run; and the doctor agrees."""
    doctor, train = doctor_and_train(here, scratch)
    faults = [line for line in train.errors.splitlines() if not line.startswith("warning: ")]
    assert "Traceback" not in train.errors + doctor.errors, (here, doctor, train)
    if train.code == 0:
        assert faults == [], (here, train)
    else:
        assert train.code == 2 and len(faults) == 1 and faults[0].startswith("error: "), (here, train)
    if doctor.code == 2:  # it cannot even begin, as in a folder that is gone
        assert train.code == 2 and doctor.errors.startswith("error: ") and doctor.errors.count("\n") == 1, (here, doctor, train)
    else:
        assert doctor.code == (0 if train.code == 0 else 1) and doctor.errors == "", (here, doctor, train)


def test_choices_are_those_of_the_surroundings() -> None:
    assert all(Surroundings._field_defaults[name] == options[0] for name, options in CHOICES.items())
