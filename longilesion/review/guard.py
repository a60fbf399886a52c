"""Who may ask the server what: one browser on this machine, by a secret; requests from other sites are refused.

The page has patients' scans and can change a review. Every site that the same browser visits can send requests to an
address of this machine, or have a name of its own point to it; neither knows the token, nor has the cookie.
"""

from __future__ import annotations

import json
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
# A decision with its drawing has less.
MOST_BYTES = 4_000_000
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
        "font-src data:; connect-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """Wraps an application; `token` is the secret of this run, `port` where the server listens."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        # Browsers keep cookies by host, not by port: two reviews on one machine are told apart by the name.
        self.cookie = f"longilesion-review-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request, or passes it on with the token's cookie checked and its body bounded."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            headers = Headers(scope=scope)
            self._check_origin(scope, headers)
            if self._has_token(scope):
                await self._let_in(send)
                return
            self._check_cookie(headers)
            body = await self._body(scope, headers, receive)
        except _RefusedError as refused:
            await self._answer(send, refused.status, json.dumps({"detail": refused.reason}).encode())
            return

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, replay, guarded)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        host = headers.getlist("host")
        if len(host) != 1 or host[0] not in self.hosts:
            raise _RefusedError(400, "another host than this server's")
        origin = headers.get("origin")
        is_change = scope["method"] not in ("GET", "HEAD")
        if (origin is not None and origin != f"http://{host[0]}") or (is_change and origin is None):
            raise _RefusedError(403, "a request of another site")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise _RefusedError(403, "a request of another site")

    def _has_token(self, scope: Scope) -> bool:
        """Whether it is the address that was printed; with a wrong token there, nothing is answered."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given is None or scope["path"] != "/" or scope["method"] != "GET":
            return False
        if len(given) != 1 or not secrets.compare_digest(given[0].encode(), self.token.encode()):
            raise _RefusedError(401, "an address of another run; expected the one that longilesion review has printed")
        return True

    async def _let_in(self, send: Send) -> None:
        cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
        await self._answer(send, 303, b"", {"Location": "/", "Set-Cookie": cookie})

    def _check_cookie(self, headers: Headers) -> None:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            found = None
        if found is None or not secrets.compare_digest(found.value.encode(), self.token.encode()):
            raise _RefusedError(401, "no token; expected the address that longilesion review has printed")

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal():
            raise _RefusedError(400, "an impossible length")
        if int(length[:12]) > MOST_BYTES:
            raise _RefusedError(413, f"more than {MOST_BYTES} bytes")
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _RefusedError(400, "an incomplete request")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            # Without a length, or beyond it.
            if size > MOST_BYTES:
                raise _RefusedError(413, f"more than {MOST_BYTES} bytes")
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _answer(self, send: Send, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **_HEADERS, **(more or {})}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})
