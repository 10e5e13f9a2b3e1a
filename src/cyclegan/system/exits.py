"""End the process on an exception: print a message and exit with a code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from cyclegan.system.errors import HostLostError, UserError, system_fault

# Environment variable: print the traceback of every error, also under DVC.
DEBUG = "CYCLEGAN_DEBUG"

logger = logging.getLogger(__name__)


@contextmanager
def exit_on_error(known: Callable[[], Sequence[Path]]) -> Iterator[None]:
    """Turn a user's error or a request to stop into one line and an exit code. A bug stays an exception.

    Args:
        known: returns the paths that the user knows; see `system_fault`.
    """
    try:
        yield
    except UserError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of the output has ended, as in `cyclegan params | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        fault = system_fault(error, known)
        if fault is None:
            raise
        _fail(fault, UserError.exit_code)
    except KeyboardInterrupt:
        logger.error("interrupted")
        _leave(128 + signal.SIGINT)
    except SystemExit as stop:
        if stop.code not in (128 + signal.SIGTERM, 128 + signal.SIGHUP):
            raise
        _leave(int(stop.code))


def _fail(message: str, code: int) -> NoReturn:
    """Print the error, after its traceback if `CYCLEGAN_DEBUG` asks for it, and exit."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exc()
    logger.error("%s", message)
    if code == HostLostError.exit_code:
        # TensorFlow would wait for the lost host.
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End a process at once. Everything is saved and closed."""
    if "tensorflow" not in sys.modules:
        sys.exit(code)
    # The shutdown of TensorFlow takes seconds. On a busy machine, the sender of the signal does not wait for it.
    # Flushing fails on a closed terminal.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)
