"""The console: one page at `/` that starts a run and follows it, in plain HTML, CSS and JS.

The files beside this one are what the browser gets, as they are:

    index.html    the page
    console.css   its looks, light and dark
    console.js    wires the page: form, buttons, the run in the URL's fragment
    stream.js     follows one run with EventSource, and counts what arrives
    output.js     shows the run's items as they grow
    recent.js     the runs that this browser started
    api.js        requests, with errors in words
    icon.svg
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrun.operations import operation

_MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

_HEADERS: Final = {
    # Asked for again each time, and answered with 304: a page must fit the server that it is of.
    "cache-control": "no-cache",
    # Nothing inline, nothing from elsewhere. Trusted types: a script that would make HTML of a
    # string, which may be a model's, is stopped by the browser.
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes() -> list[Route]:
    """The page at `/`, and at `/console/` what it loads; read once."""
    found = []
    for file in files(__name__).iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _MEDIA_TYPES:
            path = "/" if file.name == "index.html" else f"/console/{file.name}"
            found.append(Route(path, _serving(file.read_bytes(), _MEDIA_TYPES[suffix])))
    return found


def _serving(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {**_HEADERS, "etag": f'"{sha256(content).hexdigest()[:32]}"'}

    @operation(media_type, public=True, statuses={304: "It is as `if-none-match` says."})
    async def console(request: Request) -> Response:
        """A file of the console."""
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return console
