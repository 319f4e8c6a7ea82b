"""Debuggers beside a status block."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any


def yield_to_debuggers(stop: Callable[[], None]) -> Callable[[], None]:
    """Calls `stop` before `breakpoint()` or `pdb.set_trace()` opens a debugger, which then stands where it was called.

    Returns:
        a function that restores both.
    """
    import pdb  # a tenth of a second, which commands without a status block need not wait for

    hook, set_trace = sys.breakpointhook, pdb.set_trace

    def restore() -> None:
        sys.breakpointhook, pdb.set_trace = hook, set_trace

    def open_pdb(*arguments: Any, header: str | None = None, **more: Any) -> None:
        stop()
        debugger = pdb.Pdb()
        if header is not None:
            debugger.message(header)
        debugger.set_trace(sys._getframe().f_back)

    def open_any(*arguments: Any, **more: Any) -> Any:
        stop()
        if os.environ.get("PYTHONBREAKPOINT", "pdb.set_trace") in ("", "pdb.set_trace"):
            return pdb.Pdb().set_trace(sys._getframe().f_back)
        return hook(*arguments, **more)

    sys.breakpointhook, pdb.set_trace = open_any, open_pdb
    return restore
