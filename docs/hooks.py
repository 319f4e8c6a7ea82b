"""Pages that MkDocs generates from the code, so that they cannot differ from it: configuration, metrics and commands."""

from __future__ import annotations

import re
import sys
import typing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PLACEHOLDER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with every page: a placeholder becomes the table that it names."""
    tables = {"configuration": configuration, "metrics": metrics, "commands": commands}
    return PLACEHOLDER.sub(lambda found: tables[found.group(1)](), markdown)


def configuration() -> str:
    """A table for each section of the experiment, from the models of `mtrl.config`."""
    from mtrl.config import ExperimentConfig

    return "\n".join(_section("", ExperimentConfig))


def metrics() -> str:
    """The table of `mtrl.training.metrics`."""
    from mtrl.training.metrics import METRICS

    rows = [f"| `{metric.name}` | {metric.unit} | {_cell(metric.description)} |" for metric in METRICS]
    return "\n".join(["| name | unit | meaning |", "|---|---|---|", *rows])


def commands() -> str:
    """The commands with the first line of their docstrings."""
    from mtrl.cli.dispatch import COMMANDS

    rows = [f"| `python launch.py {name}` | {_cell(str(function.__doc__).splitlines()[0])} |" for name, function in COMMANDS.items()]
    return "\n".join(["| command | purpose |", "|---|---|", *rows])


def _section(path: str, section: Any) -> list[str]:
    lines, inner = [], []
    title = f"`{path}`" if path else "Experiment"
    lines += [f"## {title}", "", _cell(section.__doc__ or ""), "", "| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        annotation, full = field.annotation, f"{path}.{name}" if path else name
        if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
            inner += ["", *_section(full, annotation)]
            continue
        default = "null" if field.default is None else str(field.default).lower() if isinstance(field.default, bool) else field.default
        lines.append(f"| `{full}` | {_type(annotation, field.metadata)} | `{default}` | {_cell(field.description or '')} |")
    return [*lines, *inner]


def _type(annotation: Any, limits: list[Any]) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(annotation))
    names = [getattr(part, "__name__", str(part)) for part in (typing.get_args(annotation) or (annotation,))]
    kind = " or ".join("null" if name == "NoneType" else name for name in names if typing.get_origin(annotation) is not dict)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [f"{sign} {getattr(limit, key)}" for limit in limits for key, sign in signs.items() if getattr(limit, key, None) is not None]
    return ", ".join([kind or "mapping", *bounds])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
