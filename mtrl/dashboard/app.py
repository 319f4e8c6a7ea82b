"""The live dashboard: pages and JSON about the runs below one folder, which it only ever reads."""

from __future__ import annotations

import contextlib
import functools
import hmac
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import plotly.offline
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mtrl.dashboard.aggregates import compare
from mtrl.dashboard.figures import one_task
from mtrl.dashboard.report import differences, figures_of
from mtrl.dashboard.runs import Run, episodes_of, evaluation_of, inside, last_row, read_run

LIVE_SECONDS = 60.0
CACHED_RUNS = 32
COOKIE = "mtrl-token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    # Plotly writes its styles into the page; everything else comes from this server.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self'; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Summary(NamedTuple):
    """A run in the table of all runs."""

    id: str
    experiment: str
    frames: float | None
    frames_per_second: float | None
    score: float | None
    evaluated: dict[str, float] | None  # value, low, high of the newest evaluation's mean score
    live: bool
    problem: str | None


class RunFolder:
    """The runs directly below `root`. A name that is no entry there is nothing, whatever it would mean to the file system."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._read = functools.lru_cache(maxsize=CACHED_RUNS)(self._read_fresh)
        self._reading = threading.Lock()
        self._summaries: dict[str, tuple[tuple[Any, ...], Summary]] = {}  # by run, with the state of its files

    def names(self) -> list[str]:
        """Folders that look like runs, the newest first. Links that lead elsewhere are left out."""
        runs = sorted(
            (entry for entry in self.root.iterdir() if self._is_run(entry)), key=lambda entry: entry.stat().st_mtime, reverse=True
        )
        return [entry.name for entry in runs]

    def run(self, name: str) -> Run:
        """One run, read again when a file of it has changed.

        Raises:
            HTTPException: 404.
        """
        if name not in self.names():
            raise HTTPException(404, "no such run")
        path = self.root / name
        return self._read(path, _fingerprint(path))

    def summary(self, name: str) -> Summary:
        """What the table shows; read again when a file of the run has changed."""
        fingerprint = _fingerprint(self.root / name)
        with self._reading:  # or a visitor and `read_ahead` would both read everything
            known = self._summaries.get(name)
            if known is None or known[0] != fingerprint:
                known = (fingerprint, self._summarize(name))
                self._summaries[name] = known
        written = max((time_ns for file, time_ns, _ in fingerprint if file.endswith("metrics.jsonl")), default=0) / 1e9
        return known[1]._replace(live=time.time() - written < LIVE_SECONDS)

    def film(self, name: str, step: str, file: str) -> Path:
        """A film in a run's folder.

        Raises:
            HTTPException: 404.
        """
        run = self.run(name)
        for path in run.films.values():
            if path.name == file and path.parent.parent.name == step:
                return path
        raise HTTPException(404, "no such film")

    def _summarize(self, name: str) -> Summary:
        """Reads only the end of the metrics, so that long runs cost no more than short ones."""
        path = self.root / name
        row = last_row(path)
        results = evaluation_of(path)
        return Summary(
            id=name,
            experiment=_experiment_name(path),
            frames=row.get("summary/frames"),
            frames_per_second=row.get("summary/frames_per_second"),
            score=row.get("summary/score_mean"),
            evaluated={bound: float(results["score_mean"][bound]) for bound in ("value", "low", "high")} if results else None,
            live=False,
            problem=None if row else "no metrics yet",
        )

    def read_ahead(self) -> None:
        """Summarizes every run once."""
        with contextlib.suppress(OSError):  # whoever looks at the page will see it again
            for name in self.names():
                self.summary(name)

    def _is_run(self, entry: Path) -> bool:
        known = (entry / "config.yaml").exists() or (entry / "metrics.jsonl").exists()
        return known and entry.is_dir() and entry.resolve().parent == self.root

    @staticmethod
    def _read_fresh(path: Path, fingerprint: tuple[Any, ...]) -> Run:
        return read_run(path)


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
        "/run/{name}/film/{step}/{file}": pages.film,
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
        middleware=[guard, Middleware(_Headers), *([Middleware(_Token, token=token)] if token else [])],
        exception_handlers={Exception: _failed},
    )


class _Pages:
    """What each address answers."""

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
            results=run.evaluations[-1] if run.evaluations and task in run.evaluations[-1]["tasks"] else None,
            film=_film_address(run, task),
        )

    def film(self, request: Request) -> Response:
        values = request.path_params
        return FileResponse(self._folder.film(values["name"], values["step"], values["file"]), media_type="video/mp4")

    def compare(self, request: Request) -> Response:
        return self._of_runs(self._chosen(request))

    def api_runs(self, request: Request) -> Response:
        return JSONResponse([summary._asdict() for summary in self._summaries()])

    def api_metrics(self, request: Request) -> Response:
        return JSONResponse(self._run(request).rows)

    def api_evaluation(self, request: Request) -> Response:
        return JSONResponse(
            [{**results, "episodes": episodes_of(self._run(request).path, results)} for results in self._run(request).evaluations]
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
        films = {run.name: {task: _film_address(run, task) for task in run.films} for run in runs}
        return self._page("runs.html", runs=runs, figures=address, differences=differences(runs), comparison=compare(runs), films=films)

    def _page(self, template: str, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(**values))


def _film_address(run: Run, task: str) -> str | None:
    path = run.films.get(task)
    return None if path is None else f"/run/{quote(run.name, safe='')}/film/{path.parent.parent.name}/{quote(path.name, safe='')}"


def _threaded(handler: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await run_in_threadpool(handler, request)

    return handle


def _plotly_script(request: Request) -> Response:
    return Response(_plotly(), media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})


class _Headers(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers.update(HEADERS)
        return response


class _Token(BaseHTTPMiddleware):
    """Lets in who shows the token, and remembers it in a cookie that scripts cannot read."""

    def __init__(self, app: Any, token: str):
        super().__init__(app)
        self._token = token

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        shown = request.query_params.get("token")
        if shown is not None and self._matches(shown):
            response: Response = RedirectResponse(str(request.url.remove_query_params("token")))
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return response
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._matches(request.cookies.get(COOKIE, "")) or self._matches(bearer):
            return await call_next(request)
        return PlainTextResponse("This dashboard needs its token: open the address that was printed where it was started.", 401)

    def _matches(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self._token.encode())


async def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("The page could not be made; the terminal where the dashboard runs says why.", 500)


@functools.cache
def _plotly() -> str:
    return plotly.offline.get_plotlyjs()


def _fingerprint(path: Path) -> tuple[Any, ...]:
    """Changes whenever a file that a page shows does: name, time and size of each."""
    found = []
    for file in [
        path / "config.yaml",
        path / "versions.json",
        path / "metrics.jsonl",
        *sorted(path.glob("evaluation/*/results.json")),
        *sorted(path.glob("evaluation/*/video/*.mp4")),
    ]:
        with contextlib.suppress(OSError):  # not there, or gone meanwhile
            state = file.stat()
            found.append((str(file), state.st_mtime_ns, state.st_size))
    return tuple(found)


def _experiment_name(path: Path) -> str:
    """The experiment's name: the first line of a resolved configuration, read without parsing the rest."""
    try:
        with inside(path, "config.yaml").open(errors="replace") as file:
            first = file.readline(200)
    except OSError:
        return ""
    return first.removeprefix("name:").strip() if first.startswith("name:") else ""
