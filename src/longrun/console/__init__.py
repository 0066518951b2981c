"""The console: pages at `/` that list runs, follow one and show the system; plain HTML, CSS and JS.

The files beside this one are what the browser gets, as they are:

    index.html      the pages, of which the URL's fragment says which is shown
    console.css     what they have in common, light and dark
    lists.css run.css transcript.css

    console.js      wires the pages: signing in, the form, the fragment
    runs.js         the list of runs; entry.js has one of them as a row
    run.js          one run
    longrun.js      follows a response, whatever happens to connections; for pages of others, too
    output.js       a run's transcript, of cards.js and markdown.js
    timeline.js     its turns and tools over time; times.js knows when events came
    log.js          its events, and the way back to any of them
    approvals.js    buttons that answer what a run asks
    forks.js        its steps, and forks from them
    again.js        a run's request, to ask it again
    links.js        the same with curl
    system.js       replicas, queue and database
    api.js dom.js   requests, with errors in words; elements, and how figures are written
    chat.html       a chat for end users, to copy: all in one file, but for longrun.js
    icon.svg
"""

import re
from base64 import b64encode
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

_POLICY: Final = (
    # Nothing from elsewhere. Trusted types: a script that would make HTML of a string, which may be
    # a model's, is stopped by the browser.
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

_INLINE: Final = re.compile(rb"<(script|style)\b[^>]*>(.+?)</\1>", re.DOTALL)

_HEADERS: Final = {
    # Asked for again each time, and answered with 304: a page must fit the server that it is of.
    "cache-control": "no-cache",
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
    headers = {
        **_HEADERS,
        "content-security-policy": _policy_of(content),
        "etag": f'"{sha256(content).hexdigest()[:32]}"',
    }

    @operation(media_type, public=True, statuses={304: "It is as `if-none-match` says."})
    async def console(request: Request) -> Response:
        """A file of the console."""
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return console


def _policy_of(content: bytes) -> str:
    """Of what stands in a page itself, exactly that may run."""
    allowed = "".join(
        f"; {kind.decode()}-src 'self' 'sha256-{b64encode(sha256(text).digest()).decode()}'"
        for kind, text in _INLINE.findall(content)
    )
    return _POLICY + allowed
