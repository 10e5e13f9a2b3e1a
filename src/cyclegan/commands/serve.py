"""Command `serve`: a generator behind HTTP, for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cyclegan.commands.translate import open_translator
from cyclegan.serving.app import Limits, application
from cyclegan.serving.server import serve
from cyclegan.system.errors import UserError


def run(
    model: str,
    host: str,
    port: int,
    max_megabytes: float,
    max_megapixels: float,
    bit_depth: int | None = None,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        allowed_hosts: names of a reverse proxy in front of the server, without scheme and port.

    Raises:
        UserError: the model cannot be loaded or its pictures do not fit into PNG, or the address cannot be used.
    """
    for name, value in (("--max-megabytes", max_megabytes), ("--max-megapixels", max_megapixels)):
        if not 0 < value <= 1000:
            raise UserError(f"{name} {value:g}: must be above 0 and at most 1000")
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: must be 0…65535")
    for name in allowed_hosts:
        if re.search(r"[/@\s]|:\d*$", name):
            raise UserError(f"--allowed-hosts {name}: must be a host name without scheme and port, such as example.org")
    translator = open_translator(model, bit_depth)
    for channels in (translator.channels, translator.channels_out):
        if channels not in (1, 3, 4):
            raise UserError(f"{model} has pictures of {channels} channels, which PNG does not know; use translate")
    limits = Limits(bytes=int(max_megabytes * 1e6), pixels=int(max_megapixels * 1e6))
    # In lower case, as the requests' own names are read.
    proxies = frozenset(name.lower() for name in allowed_hosts)
    title = model.removeprefix("models:/")
    serve(lambda hosts: application(translator, title, limits, hosts, proxies), host, port, proxies)
