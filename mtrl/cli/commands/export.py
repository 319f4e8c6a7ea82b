"""`export`: a policy as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse
from mtrl.cli.shared import check_packages
from mtrl.errors import UserError


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`."""

    run: Annotated[Path | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None
    """The directory of a run."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="DIR", help_behavior_hint="(default: RUN/export/FRAMES[-TASK])")] = None
    """The folder for the files."""
    checkpoint: Annotated[str, arg(metavar="latest|best|FRAMES")] = "latest"
    """The saved policy of the run."""
    task: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """The one task to fold the policy for."""
    format: Annotated[
        Literal["pt2", "onnx", "both"] | None, arg(help_behavior_hint="(default: both, or pt2 where the extra `onnx` is not installed)")
    ] = None
    """The files: `pt2` for torch, `onnx` for ONNX's runtimes."""


def export(arguments: list[str], program: str) -> int:
    """Write a policy as files that run without this program."""
    options = parse(
        ExportOptions(), arguments, program, "Write a policy as torch.export and ONNX, with a model card and a script that plays."
    )
    if options.run is None:
        raise UserError(f"export needs the directory of a run: {program} RUN")
    check_packages()
    from mtrl.evaluation.export import export_run
    from mtrl.evaluation.export.formats import ONNX_HINT, has_onnx
    from mtrl.storage.run_directory import RunDirectory

    done = export_run(
        RunDirectory.open(options.run), checkpoint=options.checkpoint, task=options.task, output=options.output, format=options.format
    )
    before = done.microseconds_before
    faster = "" if before is None else f", {before / done.microseconds:.2f} times as fast as the whole policy"
    print(f"wrote {done.folder}: {done.experts} of {done.of_experts} experts, {done.microseconds:.1f} µs for an observation{faster}")
    compared = ", ".join(f"{name} by {difference:.1e}" for name, difference in done.differences.items())
    print(f"largest difference from the policy, relative to its outputs: {compared}")
    if options.format is None and not has_onnx():
        print(f"no ONNX file, which needs packages that are not installed: {ONNX_HINT}")
    return 0
