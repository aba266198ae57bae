"""Serves the page of a run on an address of this machine, until Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dpr_lightning.errors import UserError

if TYPE_CHECKING:
    from dpr_lightning.searcher import Searcher

_INSTALL = "serve.py needs starlette and uvicorn. Install them: pip install 'dpr_lightning[serve]'."


def serve(load: Callable[[], Mapping[str, Searcher]], *, name: str, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a run and print one line with the address once it answers.

    Args:
        load: Returns the searcher of each method; called after the address is reserved, because it takes long.
        name: The name of the run.
        host: The address or the name of this machine; `0.0.0.0` lets other machines in.
        port: The port; 0 takes a free one.

    Raises:
        UserError: starlette or uvicorn is not installed, or the address cannot be used.
        KeyboardInterrupt: Ctrl-C; requests that wait are answered first.
    """
    try:
        import uvicorn

        from dpr_lightning.serving.app import make_app
    except ImportError as error:
        raise UserError(_INSTALL) from error
    with listen(host, port) as listening:
        searchers = load()
        app = make_app(searchers, name=name)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        print(
            f"http://{shown}:{port}/ answers questions about {name} ({', '.join(searchers)}); Ctrl-C ends it",
            flush=True,
        )
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises UserError if it cannot be used."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port: {port} is not a number from 0 to 65535. Correct it.")
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(
            f"--host: {host!r} is not an address of this machine ({error.strerror}). Correct it."
        ) from error
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise UserError(f"--port: {host}:{port} cannot be used ({reason}). Give another --port or --host.") from error
