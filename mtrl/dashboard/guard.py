"""Access to the dashboard: security headers, allowed hosts and the token."""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

COOKIE = "mtrl-token"


LOOPBACK = ("127.0.0.1", "localhost", "::1")
IPV6 = ("[", "[::1]")
"""What older and newer versions of Starlette compare of the host `[::1]:8050`: a number, not a name that somebody could point to us."""


HEADERS = {
    # Plotly writes its styles into the page; everything else comes from this server.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self'; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class SecurityHeaders(BaseHTTPMiddleware):
    """Adds the headers that keep a page from loading or running anything but ours."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """The response with `HEADERS`."""
        response: Response = await call_next(request)
        response.headers.update(HEADERS)
        return response


class TokenGuard(BaseHTTPMiddleware):
    """Lets in who shows the token, and remembers it in a cookie that scripts cannot read."""

    def __init__(self, app: Any, token: str):
        super().__init__(app)
        self._token = token

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """The response where the token is shown, by address, cookie or header; else 401."""
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


def is_from_here(request: Request) -> bool:
    """Whether a request that changes something comes from a page of this server, or from no page at all."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
