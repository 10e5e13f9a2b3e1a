"""The server process: where it listens, and how it stops."""

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
WAITING = 32
"""Requests at once; more are answered 503."""
SECONDS_TO_STOP = 10

logger = logging.getLogger(__name__)


def serve(build: Callable[[Set[str] | None], Starlette], host: str, port: int, proxies: Set[str] = frozenset()) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being answered then is answered first.

    Args:
        build: makes the application for the names under which it may be addressed (None: any).
        host: address or name to listen on. On this machine's own, other names are refused.
        port: 0 takes a free one; it is printed.
        proxies: names of reverse proxies in front of the server, under which it may be addressed, too.

    Raises:
        UserError: the address cannot be used.
    """
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        local = _is_loopback(listener.getsockname()[0])
        if not local:
            logger.warning("--host %s: no login; everyone who reaches this port can use it", host)
        config = uvicorn.Config(
            # In lower case, as the requests' own names are read.
            build(LOOPBACK | {host.lower()} | proxies if local or proxies else None),
            log_level="warning",
            limit_concurrency=WAITING,
            timeout_graceful_shutdown=SECONDS_TO_STOP,
            server_header=False,
            # Nobody in front of this server is known whose word on addresses could be trusted.
            proxy_headers=False,
        )
        # The server ends by itself on signals and then passes them on: that is no error.
        sigterm_is_no_error()
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{port}  (Ctrl-C stops it)", flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            sys.exit(0)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    # Names with an empty or too long label fail in being encoded.
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no possible name"
        remedy = "choose another --port, or 0 for a free one" if host in LOOPBACK else "check --host and --port"
        raise UserError(f"{shown(host)} port {port} cannot be used ({reason}): {remedy}") from None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
