"""The paint page over HTTP: the page itself, and edits that are asked for, watched, cancelled and fetched."""

import asyncio
import base64
import hashlib
import hmac
import re
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tools.paint.edits import Painter, read_wanted
from tools.paint.queue import BusyError, Edit, Queue

PAGE = Path(__file__).with_name("page.html")
MAX_BYTES = 64 * 1024 * 1024
"""Of a request: a photo of 45 MB and what is painted on it, as base64."""
_TOO_MUCH = (
    f"more than {MAX_BYTES // 2**20} MiB, in which a file of 45 MB and what is painted on it have room; save "
    "the picture as JPEG, with 8 bits or with fewer pixels, and open that"
)
MAX_SECONDS = 180
"""In which a request has to arrive."""
MAX_READ = 2
"""Requests with pictures that are read and decoded at once; others wait."""
_HOST = re.compile(rb"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
"""What the Host header may be: of any port, as a tunnel may end at another one."""
_SWALLOWED = 2
"""Times MAX_BYTES that are read and dropped: a client that is still sending would not see the answer."""


class Guard:
    """Lets through only what knows the token, and came by the name of this machine.

    The token is the first part of every path, so that a browser sends it with pictures as well. The name
    is checked because a page elsewhere may let its own name lead here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str, policy: str):
        self._app, self._token = app, token.encode()
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on without its token."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        given, slash, rest = scope["path"].removeprefix("/").partition("/")
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        answer: ASGIApp = self._app
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            answer = _refusal(403, "this page is at 127.0.0.1 or localhost only")
        elif not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token):
            answer = _refusal(403, "wrong token; open the address that the terminal shows")
        elif not slash:
            answer = RedirectResponse(f"/{given}/")
        else:
            scope = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}
        await answer(scope, receive, send_guarded)


def make_app(painter: Painter, queue: Queue, token: str) -> ASGIApp:
    """Join the page, the painter and the queue."""
    page = PAGE.read_text(encoding="utf-8")
    reading = asyncio.Semaphore(MAX_READ)

    async def show(request: Request) -> Response:
        return Response(page, media_type="text/html")

    async def describe(request: Request) -> Response:
        return JSONResponse(painter.describe())

    async def submit(request: Request) -> Response:
        try:
            async with reading:
                wanted = await run_in_threadpool(read_wanted, await _body(request))
            plan = await run_in_threadpool(painter.plan, wanted)
            edit = queue.submit(partial(painter.edit, plan), plan.num_steps, wanted.num_bytes)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        except BusyError as error:
            raise HTTPException(503, str(error)) from None
        return JSONResponse(queue.status(edit), 202)

    async def watch(request: Request) -> Response:
        return JSONResponse(queue.status(_find(queue, request)))

    async def cancel(request: Request) -> Response:
        edit = _find(queue, request)
        queue.cancel(edit)
        return JSONResponse(queue.status(edit))

    async def fetch(request: Request) -> Response:
        edit = _find(queue, request)
        if edit.state != "done":
            raise HTTPException(409, f"this edit is {edit.state}")
        return Response(edit.result, media_type="image/png")

    routes = [
        Route("/", show, methods=["GET"]),
        Route("/model", describe, methods=["GET"]),
        Route("/edits", submit, methods=["POST"]),
        Route("/edits/{key}", watch, methods=["GET"]),
        Route("/edits/{key}", cancel, methods=["DELETE"]),
        Route("/edits/{key}/result.png", fetch, methods=["GET"]),
    ]
    handlers = {HTTPException: _explain, Exception: _fail}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # would lead out of the token
    return Guard(app, token, content_policy(page))


def content_policy(page: str) -> str:
    """Allow the page its own script and style, and requests to its own server: nothing else."""
    hashes = {
        tag: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for tag, text in re.findall(r"<(script|style)>(.*?)</\1>", page, flags=re.S)
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


async def _body(request: Request) -> bytes:
    """Read a request no further than it may go."""
    content, size = bytearray(), 0
    try:
        async with asyncio.timeout(MAX_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BYTES:
                    content += chunk
                elif size > _SWALLOWED * MAX_BYTES:
                    break
    except TimeoutError:
        raise HTTPException(408, f"did not arrive within {MAX_SECONDS} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "broken off") from None
    if size > MAX_BYTES:
        raise HTTPException(413, _TOO_MUCH)
    return bytes(content)


def _find(queue: Queue, request: Request) -> Edit:
    edit = queue.find(request.path_params["key"])
    if edit is None:
        raise HTTPException(404, "no such edit; it may have been dropped")
    return edit


def _refusal(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(error.status_code, error.detail)


async def _fail(request: Request, error: Exception) -> Response:
    return _refusal(500, "a fault of this program; its terminal shows more")
