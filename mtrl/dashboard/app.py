"""The live dashboard: pages and JSON about the runs below one folder, which it only ever reads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
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

from mtrl.dashboard.aggregates import compare
from mtrl.dashboard.figures import one_task
from mtrl.dashboard.folder import RunFolder, Summary
from mtrl.dashboard.guard import LOOPBACK, SecurityHeaders, TokenGuard
from mtrl.dashboard.overview import differences, figures_of
from mtrl.dashboard.runs import Run, episodes_of


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
        "/run/{name}": pages.one,
        "/run/{name}/task/{task}": pages.task,
        "/run/{name}/video/{step}/{file}": pages.video,
        "/compare": pages.compare,
        "/api/runs": pages.api_runs,
        "/api/runs/{name}/metrics": pages.api_metrics,
        "/api/runs/{name}/evaluation": pages.api_evaluation,
        "/api/figures": pages.api_figures,
        "/static/plotly.js": _plotly_script,
    }
    # Two hundred evaluations take a second to read: begun before the first visitor comes.
    threading.Thread(target=folder.read_ahead, daemon=True).start()
    static = Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    # Without a token only names of this machine are answered to, so that a page elsewhere cannot reach us by pointing its name here.
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=["*"] if token else [*LOOPBACK, "testserver"])
    return Starlette(
        routes=[*(Route(path, _threaded(handler)) for path, handler in handlers.items()), static],
        middleware=[guard, Middleware(SecurityHeaders), *([Middleware(TokenGuard, token=token)] if token else [])],
        exception_handlers={Exception: _failed},
    )


class _Pages:
    """The handlers of the addresses."""

    def __init__(self, folder: RunFolder, title: str):
        self._folder = folder
        self._title = title
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("mtrl.dashboard"), autoescape=True, undefined=jinja2.StrictUndefined
        )

    def index(self, request: Request) -> Response:
        return self._page("index.html", rows=self._summaries(), root=self._title)

    def one(self, request: Request) -> Response:
        return self._of_runs([self._run(request)])

    def task(self, request: Request) -> Response:
        run, task = self._run(request), request.path_params["task"]
        if task not in run.tasks:
            raise HTTPException(404, "no such task")
        return self._page(
            "task.html",
            run=run,
            task=task,
            figures=f"/api/figures?run={quote(run.name, safe='')}&task={quote(task, safe='')}",
            results=run.evaluations[-1] if run.evaluations and task in run.evaluations[-1].tasks else None,
            video=_video_address(run, task),
        )

    def video(self, request: Request) -> Response:
        values = request.path_params
        return FileResponse(self._folder.video(values["name"], values["step"], values["file"]), media_type="video/mp4")

    def compare(self, request: Request) -> Response:
        return self._of_runs(self._chosen(request))

    def api_runs(self, request: Request) -> Response:
        return JSONResponse([summary._asdict() for summary in self._summaries()])

    def api_metrics(self, request: Request) -> Response:
        return JSONResponse(self._run(request).rows)

    def api_evaluation(self, request: Request) -> Response:
        return JSONResponse(
            [results.to_json() | {"episodes": episodes_of(self._run(request).path, results)} for results in self._run(request).evaluations]
        )

    def api_figures(self, request: Request) -> Response:
        runs, task = self._chosen(request), request.query_params.get("task")
        figures = figures_of(runs) if task is None else one_task(runs, task)
        content = ",".join(figure.to_json() for figure in figures)
        return Response(f"[{content}]", media_type="application/json")

    def _summaries(self) -> list[Summary]:
        return [self._folder.summary(name) for name in self._folder.names()]

    def _run(self, request: Request) -> Run:
        return self._folder.run(request.path_params["name"])

    def _chosen(self, request: Request) -> list[Run]:
        names = request.query_params.getlist("run")
        if not names:
            raise HTTPException(400, "name the runs: ?run=A&run=B")
        return [self._folder.run(name) for name in names]

    def _of_runs(self, runs: list[Run]) -> Response:
        address = "/api/figures?" + "&".join(f"run={quote(run.name, safe='')}" for run in runs)
        videos = {run.name: {task: _video_address(run, task) for task in run.videos} for run in runs}
        return self._page("runs.html", runs=runs, figures=address, differences=differences(runs), comparison=compare(runs), videos=videos)

    def _page(self, template: str, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(**values))


def _video_address(run: Run, task: str) -> str | None:
    path = run.videos.get(task)
    return None if path is None else f"/run/{quote(run.name, safe='')}/video/{path.parent.parent.name}/{quote(path.name, safe='')}"


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
