"""What every request passes before it is answered: permission, limits, measurement, and the headers of its answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from recbole_mambarec_serving.server.metrics import Metrics
from recbole_mambarec_serving.server.options import Options

log = logging.getLogger("recbole_mambarec.serve")
#: what a browser gets before it can show a token; there is nothing of the bundle in it
OPEN = frozenset(("/", "/page.js", "/style.css", "/icon.svg", "/docs", "/openapi.json", "/health"))
#: bytes of a body that is too large, and is read in order to be able to say so
_DISCARDED = 16 << 20
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Refusal(NamedTuple):
    """An answer that is a sentence."""

    status: int
    sentence: str
    headers: Mapping[str, str] = MappingProxyType({})


class Guard:
    """ASGI middleware around the whole application.

    A request without the token, or under a name that is not this server's, is refused; so is a body that is larger
    than the limit, before it is read further. Whatever goes wrong in the application is answered by a sentence with an
    id, under which the log has the traceback.
    """

    def __init__(self, app: Any, options: Options, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def answer(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(name, value) for name, value in _HEADERS if name not in present]
                if b"cache-control" not in present:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        self._metrics.in_progress.inc()
        try:
            refusal = self._refusal(scope)
            body, late = await self._body(scope, receive, 0 if refusal else self._options.max_body)
            refusal = refusal or late
            if refusal:
                # what is left of a body would be taken for the next request
                await respond(answer, refusal, close=_has_body(scope))
            else:
                await self._app(scope, _replayed(body, receive), answer)
        except Exception:
            number = secrets.token_hex(6)
            log.exception("error %s in %s %r", number, scope["method"], scope["path"])
            if status:
                raise  # the client sees that the answer ends too early
            sentence = f"the server has made an error, its log has it as {number}"
            await respond(answer, Refusal(500, sentence), id=number)
        finally:
            self._metrics.in_progress.dec()
            # a client that has gone gets no status
            self._metrics.answered(scope["method"], _route(scope), status or 499, time.perf_counter() - started)

    def _refusal(self, scope: dict) -> Refusal | None:
        options = self._options
        headers = dict(scope["headers"])
        scope.setdefault("state", {})["trusted"] = trusted = self._shows_token(headers)
        if options.token is None:
            # a page elsewhere can make a browser call this machine under a name of its own (DNS rebinding)
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in options.hosts:
                return Refusal(421, f"this server without a token answers to {', '.join(options.hosts)} only")
        elif not trusted and scope["path"] not in OPEN:
            sentence = "this needs the server's token, in a header Authorization: Bearer TOKEN"
            return Refusal(401, sentence, {"www-authenticate": "Bearer"})
        return None

    def _shows_token(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        expected = self._options.token
        return expected is None or (scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), expected))

    async def _body(self, scope: dict, receive: Any, most: int) -> tuple[bytes, Refusal | None]:
        """The body of a request; or nothing, and why it is refused.

        One that is too large is read to its end if that is not far, and thrown away: most clients look for an answer
        only once they have sent all of it.
        """
        if not _has_body(scope):
            return b"", None
        length = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = Refusal(413, f"the body is larger than {most} bytes, the most that this server reads")
        if not length.isdigit() or len(length) > 18 or int(length) > _DISCARDED:
            return b"", too_large
        try:
            body = await asyncio.wait_for(_read(receive, most), self._options.timeout)
        except (asyncio.TimeoutError, TimeoutError):
            return b"", Refusal(408, f"the body has not arrived within {self._options.timeout:g} seconds")
        return (b"", too_large) if body is None else (body, None)


async def _read(receive: Any, most: int) -> bytes | None:
    """A whole body; None if it is larger than ``most`` bytes."""
    body, size, more = bytearray(), 0, True
    while more and size <= _DISCARDED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size <= most:
            body += part
    return bytes(body) if size <= most else None


def _replayed(body: bytes, receive: Any) -> Any:
    """A ``receive`` whose body has been read."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict:
        return parts.pop() if parts else await receive()

    return replay


def _has_body(scope: dict) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def respond(send: Any, refusal: Refusal, id: str | None = None, close: bool = False) -> None:
    """Send a sentence as the whole answer, and end the connection with ``close``."""
    body = fault(refusal.sentence, id)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    if close:
        headers["connection"] = "close"
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def fault(sentence: str, id: str | None = None) -> bytes:
    """The body of an answer that says why there is none."""
    # in ASCII: what a request quotes may be half a character, which UTF-8 has none for
    return json.dumps({"error": sentence} if id is None else {"error": sentence, "id": id}).encode()


def _route(scope: dict) -> str:
    """The pattern of a request's path; one word for all that have none, or there would be a time series for each."""
    return getattr(scope.get("route"), "path", "none").replace(":path", "")
