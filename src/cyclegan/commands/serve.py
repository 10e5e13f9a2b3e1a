"""Command `serve`: translate images over HTTP."""

from __future__ import annotations

import argparse
import re

from cyclegan.commands.model_argument import add_model, open_translator
from cyclegan.system.arguments import comma_separated
from cyclegan.system.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model, the address and the limits."""
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 selects a free port (default: %(default)s)")
    parser.add_argument(
        "--allowed-hosts",
        type=comma_separated,
        default=[],
        metavar="A,B,…",
        help="host names of this server or of a reverse proxy, as in the Host or Origin header of a request",
    )
    parser.add_argument("--access-log", action="store_true", help="print one JSON object for each request")
    parser.add_argument(
        "--max-images", type=int, default=32, metavar="N", help="unanswered images at once (default: %(default)s)"
    )
    for unit, default in (("megabytes", 20), ("megapixels", 4)):
        text = f"maximum size of an image (default: {default})"
        parser.add_argument(f"--max-{unit}", type=float, default=default, metavar="N", help=text)


def run(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UserError: an option is invalid, the model cannot be loaded, PNG cannot store its images, or the address cannot
            be used.
    """
    for name, value in (("--max-megabytes", options.max_megabytes), ("--max-megapixels", options.max_megapixels)):
        if not 0 < value <= 1000:
            raise UserError(f"{name} {value:g}: must be above 0 and at most 1000")
    if options.max_images < 1:
        raise UserError(f"--max-images {options.max_images}: must be at least 1")
    if not 0 <= options.port < 65536:
        raise UserError(f"--port {options.port}: must be 0…65535")
    for name in options.allowed_hosts:
        if re.search(r"[/@\s]|:\d*$", name):
            raise UserError(f"--allowed-hosts {name}: must be a host name without scheme and port, such as example.org")
    from cyclegan.commands.served_model_facts import describe_model
    from cyclegan.serving.app import Limits, application
    from cyclegan.serving.server import serve

    translator = open_translator(options.model, options.bit_depth)
    for channels in (translator.channels, translator.channels_out):
        if channels not in (1, 3, 4):
            raise UserError(
                f"{options.model}: has images of {channels} channels, which PNG cannot store; use 'cyclegan translate'"
            )
    limits = Limits(int(options.max_megabytes * 1e6), int(options.max_megapixels * 1e6), options.max_images)
    # Compare host names in lower case, because they are case-insensitive.
    proxies = frozenset(name.lower() for name in options.allowed_hosts)
    about = describe_model(options.model)
    serve(
        lambda hosts: application(translator, about, limits, hosts, proxies, options.access_log),
        options.host,
        options.port,
        proxies,
    )
