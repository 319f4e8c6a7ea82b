"""The live dashboard: pages and JSON about the runs below one folder. It reads everything there, and writes the notes alone."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.offline
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mtrl.dashboard.aggregates import by_tasks, compare
from mtrl.dashboard.curves import Bands, one_task
from mtrl.dashboard.decisions import decision_at
from mtrl.dashboard.folder import LIVE_STATES, RunFolder
from mtrl.dashboard.guard import IPV6, LOOPBACK, SecurityHeaders, TokenGuard, is_from_here
from mtrl.dashboard.overview import changes, differences, figures_of
from mtrl.dashboard.page import head_of, make_templates
from mtrl.dashboard.runs import MOST_NOTE, Run, episodes_of
from mtrl.storage.layout import RunLayout

LIST_SECONDS = 0.15  # of reading runs, after which the list of runs is shown as far as it is known


def make_app(root: Path, *, token: str | None = None) -> Starlette:
    """The application.

    Args:
        root: the folder whose runs are shown.
        token: what a visitor has to show, in `?token=`, once; None lets everybody in who reaches the port under a name of this machine.
    """
    folder = RunFolder(root)
    pages = _Pages(folder, str(root))
    handlers = {
        "/": pages.index,
        "/run/{name:path}/task/{task}": pages.task,
        "/run/{name:path}/video/{step}/{file}": pages.video,
        "/run/{name:path}/decision": pages.decision,
        "/run/{name:path}/log": pages.log,
        "/run/{name:path}": pages.one,
        "/compare": pages.compare,
        "/api/runs": pages.api_runs,
        "/api/runs/{name:path}/metrics": pages.api_metrics,
        "/api/runs/{name:path}/evaluation": pages.api_evaluation,
        "/api/figures": pages.api_figures,
        "/api/fields": pages.api_fields,
        "/static/plotly.js": _plotly_script,
    }
    # Two hundred evaluations take a second to read: begun before the first visitor comes.
    threading.Thread(target=folder.read_ahead, daemon=True).start()
    static = Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    # Without a token only names of this machine are answered to, so that a page elsewhere cannot reach us by pointing its name here.
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=["*"] if token else [*LOOPBACK, *IPV6, "testserver"])
    return Starlette(
        routes=[
            Route("/run/{name:path}/note", pages.write_note, methods=["PUT"]),
            *(Route(path, _threaded(handler)) for path, handler in handlers.items()),
            static,
        ],
        middleware=[guard, Middleware(SecurityHeaders), *([Middleware(TokenGuard, token=token)] if token else [])],
        exception_handlers={404: pages.not_found, Exception: _failed},
    )


class _Pages:
    """The handlers of the addresses."""

    def __init__(self, folder: RunFolder, title: str):
        self._folder = folder
        self._title = title
        self._templates = make_templates()

    def index(self, request: Request) -> Response:
        columns = [column for column in request.query_params.get("columns", "").split(",") if column]
        rows, unread = self._folder.rows(columns, LIST_SECONDS)
        return self._page("index.html", rows=rows, unread=unread, root=self._title, columns=columns, known=self._folder.columns())

    def one(self, request: Request) -> Response:
        return self._of_runs([self._run(request)], _bands(request))

    def task(self, request: Request) -> Response:
        run, task = self._run(request), request.path_params["task"]
        if task not in run.tasks:
            raise HTTPException(404, "no such task")
        return self._page(
            "task.html",
            run=run,
            task=task,
            figures=one_task([run], task),
            results=run.evaluations[-1] if run.evaluations and task in run.evaluations[-1].tasks else None,
            video=_video_address(run, task),
        )

    def decision(self, request: Request) -> Response:
        run = self._run(request)
        found = decision_at(run, _frames(request))
        if found is None:
            return self._missing(f"No decision of {run.name} up to these frames", "The run's log of decisions is empty or begins later.")
        return self._page("decision.html", run=run, found=found)

    def video(self, request: Request) -> Response:
        values = request.path_params
        return FileResponse(self._folder.video(values["name"], values["step"], values["file"]), media_type="video/mp4")

    async def write_note(self, request: Request) -> Response:
        """Takes in a note from a page of ours: browsers ask before they send a PUT from another one, and get no leave."""
        if not is_from_here(request):
            raise HTTPException(403, "notes can only be written on the dashboard's own pages")
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_NOTE:
                raise HTTPException(413, f"a note may have {MOST_NOTE:,} bytes at most")
        await run_in_threadpool(self._folder.write_note, request.path_params["name"], content.decode(errors="replace"))
        return Response(status_code=204)

    def log(self, request: Request) -> Response:
        return PlainTextResponse(self._folder.messages(request.path_params["name"]))

    def not_found(self, request: Request, error: Exception) -> Response:
        """A page that looks again, since a run may begin after its page was opened."""
        return self._missing("No such run or task", "This page looks again every few seconds: a run appears here when it has begun.")

    def compare(self, request: Request) -> Response:
        return self._of_runs(self._chosen(request), _bands(request))

    def api_runs(self, request: Request) -> Response:
        rows = [row.summary for row in self._folder.rows()[0]]
        return JSONResponse([row._asdict() | {"progress": row.progress, "live": row.state in LIVE_STATES} for row in rows])

    def api_fields(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        return JSONResponse({run: self._folder.value(run, name) for run in self._folder.names()})

    def api_metrics(self, request: Request) -> Response:
        return JSONResponse(_finite(self._run(request).rows))

    def api_evaluation(self, request: Request) -> Response:
        run = self._run(request)
        return JSONResponse(_finite([each.to_json() | {"episodes": episodes_of(run.path, each)} for each in run.evaluations]))

    def api_figures(self, request: Request) -> Response:
        runs, task = self._chosen(request), request.query_params.get("task")
        figures = figures_of(runs, _bands(request)) if task is None else one_task(runs, task)
        content = ",".join(figure.to_json() for figure in figures)
        return Response(f"[{content}]", media_type="application/json")

    def _run(self, request: Request) -> Run:
        return self._folder.run(request.path_params["name"])

    def _chosen(self, request: Request) -> list[Run]:
        names = request.query_params.getlist("run")
        if not names:
            raise HTTPException(400, "name the runs: ?run=A&run=B")
        return [self._folder.run(name) for name in names]

    def _of_runs(self, runs: list[Run], bands: Bands) -> Response:
        return self._page(
            "runs.html",
            runs=runs,
            heads=[head_of(run, self._folder.summary(run.name)) for run in runs],
            figures=figures_of(runs, bands),
            bands=bands,
            differences=differences(runs) if len(runs) > 1 else [],
            changes={run.name: changes(run) for run in runs if run.changes},
            comparisons=compare(runs),
            task_sets=len(by_tasks(runs)),
            videos={run.name: {task: _video_address(run, task) for task in run.videos} for run in runs},
            has_decisions=len(runs) == 1 and RunLayout(runs[0].path).decisions.is_file(),
            captions={run.name: run.captions for run in runs},
        )

    def _missing(self, what: str, note: str) -> Response:
        return HTMLResponse(self._templates.get_template("missing.html").render(what=what, note=note), 404)

    def _page(self, template: str, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(**values))


def _video_address(run: Run, task: str) -> str | None:
    path = run.videos.get(task)
    return None if path is None else f"/run/{quote(run.name, safe='')}/video/{path.parent.parent.name}/{quote(path.name, safe='')}"


def _frames(request: Request) -> float | None:
    """The frames that an address asks for; None where it asks for the newest."""
    try:
        return float(request.query_params["frames"]) if "frames" in request.query_params else None
    except ValueError:
        raise HTTPException(400, "frames has to be a number: ?frames=100000") from None


def _bands(request: Request) -> Bands:
    return "interval" if request.query_params.get("bands") == "interval" else "range"


def _threaded(handler: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await run_in_threadpool(handler, request)

    return handle


def _plotly_script(request: Request) -> Response:
    return Response(_plotly(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("The page could not be made; the terminal where the dashboard runs says why.", 500)


@functools.cache
def _plotly() -> str:
    return plotly.offline.get_plotlyjs()


def _finite(content: Any) -> Any:
    """The content with None for numbers that JSON does not have."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
