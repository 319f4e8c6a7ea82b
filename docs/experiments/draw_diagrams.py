"""Draws docs/data-flow.svg and docs/layers.svg: `python docs/experiments/draw_diagrams.py`."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STYLE = (
    "<style>rect{fill:#eef2ff;stroke:#3f51b5;stroke-width:1.5}text{font:14px sans-serif;fill:#1a237e;text-anchor:middle}"
    ".small{font-size:12px;fill:#37474f}path{stroke:#3f51b5;stroke-width:1.5;fill:none;marker-end:url(#arrow)}</style>"
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<polygon points="0,0 10,5 0,10" fill="#3f51b5"/></marker></defs>'
)


def box(x: int, y: int, width: int, title: str, *lines: str) -> str:
    """A box with a title and lines below it; its height is 34 and 18 for each line."""
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{34 + 18 * len(lines)}" rx="6"/>']
    parts.append(f'<text x="{x + width // 2}" y="{y + 22}" font-weight="bold">{title}</text>')
    parts += [f'<text class="small" x="{x + width // 2}" y="{y + 42 + 18 * i}">{line}</text>' for i, line in enumerate(lines)]
    return "".join(parts)


def arrow(path: str, label: str, x: int, y: int) -> str:
    """An arrow along an SVG path with a label at (x, y)."""
    return f'<path d="{path}"/><text class="small" x="{x}" y="{y}">{label}</text>'


def svg(width: int, height: int, *parts: str) -> str:
    """The drawing on white, so that it can be read on dark pages too."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    background = f'<rect x="0" y="0" width="{width}" height="{height}" style="fill:#fff;stroke:none"/>'
    return f"{head}{STYLE}{background}{''.join(parts)}</svg>\n"


def data_flow() -> str:
    """Runners, learner, curriculum and what goes between them."""
    return svg(
        900,
        370,
        box(20, 40, 230, "Environments", "slots of all tasks, stepped together", "EnvPool or Gymnasium"),
        box(20, 210, 230, "Collector (runner)", "sampled actions, T steps", "policy evaluated once for each", "distinct observation"),
        box(350, 210, 200, "Learner", "V-trace targets, losses,", "minibatches, optimiser steps"),
        box(650, 210, 230, "Task statistics", "scores, success rates, frames,", "value errors of each task"),
        box(650, 40, 230, "Curriculum", "scheduler, floor, quarantine"),
        arrow("M100,210 L100,114", "actions", 65, 165),
        arrow("M170,114 L170,210", "observations, rewards", 245, 165),
        arrow("M250,250 L350,250", "rollout [T, B]", 300, 242),
        arrow("M550,240 L650,240", "update result", 600, 232),
        arrow("M765,210 L765,94", "evidence", 800, 155),
        arrow("M650,60 L325,60 L325,225 L250,225", "share of the slots for each task", 470, 52),
        arrow("M450,282 L450,335 L135,335 L135,300", "weights of the actor, pulled at the start of an unroll", 300, 355),
    )


def layers() -> str:
    """The layers that import-linter holds, from pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = [*next(c for c in contracts if c.get("containers") == ["mtrl"])["layers"], "envs"]
    boxes = []
    for row, names in enumerate(rows):
        parts = [name.strip() for name in names.split("|")]
        width = (560 - 10 * (len(parts) - 1)) // len(parts)
        titles = [name if name == "envs" else f"mtrl.{name}" for name in parts]
        boxes += [box(20 + i * (width + 10), 20 + 44 * row, width, title) for i, title in enumerate(titles)]
    note = '<text class="small" x="300" y="{}">a module imports only what lies below it; only mtrl.distributed imports Ray</text>'
    return svg(600, 50 + 44 * len(rows), *boxes, note.format(36 + 44 * len(rows)))


if __name__ == "__main__":
    (ROOT / "docs" / "data-flow.svg").write_text(data_flow())
    (ROOT / "docs" / "layers.svg").write_text(layers())
