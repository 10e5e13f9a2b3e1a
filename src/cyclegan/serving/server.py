"""The server process: it listens on a port until a signal stops it."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Set

import uvicorn
from starlette.applications import Starlette

from cyclegan.data.images.layout import shown
from cyclegan.system.errors import UserError
from cyclegan.system.signals import sigterm_is_no_error

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CONNECTIONS = 1000
"""Largest number of connections at once, open or busy; further ones get 503."""
SECONDS_TO_STOP = 10

logger = logging.getLogger(__name__)


def serve(build: Callable[[Set[str] | None], Starlette], host: str, port: int, proxies: Set[str] = frozenset()) -> None:
    """Serve until Ctrl-C or SIGTERM; open requests are answered first.

    Args:
        build: creates the application for the allowed names of the server (None: any).
        host: address or name to listen on. On a loopback address, other names are refused.
        port: 0 chooses a free port; it is printed.
        proxies: names of reverse proxies in front of the server; they are also allowed.

    Raises:
        UserError: the address cannot be used.
    """
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        local = _is_loopback(listener.getsockname()[0])
        if not local:
            logger.warning("--host %s: there is no login; everyone who can reach this port can use it", host)
        config = uvicorn.Config(
            # In lower case, like the parsed names of requests.
            build(LOOPBACK | {host.lower()} | proxies if local or proxies else None),
            log_level="warning",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=SECONDS_TO_STOP,
            server_header=False,
            # No proxy is known whose headers could be trusted.
            proxy_headers=False,
        )
        # On a signal, uvicorn stops and then raises the signal again, which is no error.
        sigterm_is_no_error()
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{port}  (Ctrl-C stops it)", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            sys.exit(0)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    # The encoding of names with an empty or too long label fails.
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid name"
        remedy = "choose another --port, or 0 for a free one" if host in LOOPBACK else "check --host and --port"
        raise UserError(f"--host {shown(host)} --port {port}: cannot be used ({reason}); {remedy}") from None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
