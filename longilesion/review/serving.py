"""Runs the server of a review on this machine, until a signal ends it."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from longilesion.errors import InputError
from longilesion.program import ENDING_SIGNALS, handling
from longilesion.review.guard import HOST

# For requests that are being answered when the program is to end.
_GRACE_S = 2


def listen(port: int) -> socket.socket:
    """Takes a port, any free one for 0, to which nobody can connect yet; raises InputError where it is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--port {port}: {reason}; expected a free one, or 0 for any") from error
    return listening


def serve(app: ASGIApp, listening: socket.socket, *, opens: str | None) -> None:
    """Serves until Ctrl-C or another signal, which is how a review ends; first opens an address in the browser."""
    # From here on a browser may connect, and waits until it is served.
    listening.listen()
    if opens is not None:
        # Some browsers only return when they are closed.
        threading.Thread(target=webbrowser.open, args=(opens,), daemon=True).start()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
    )
    _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends the server at a signal; Uvicorn's own raises it again afterwards."""
        with handling(dict.fromkeys(ENDING_SIGNALS, self.handle_exit)):
            yield
