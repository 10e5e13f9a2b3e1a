"""The first process of a container: it runs a command, forwards stop signals, and ends after all processes.

`docker stop` signals only process 1, and the kernel drops signals that process 1 does not handle; DVC handles none.
When process 1 ends, all others are killed, even a training that is saving its state. On a terminal, the command is in
the foreground, so Ctrl-C reaches the command and not this process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time


def take_terminal() -> None:
    """Move this process to its own process group, and to the foreground of a terminal if there is one."""
    os.setpgid(0, 0)
    if os.isatty(0):
        # The kernel would stop a background process that takes the terminal.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def wait_for(child: int) -> int:
    """Wait for a child, and meanwhile for the orphans that process 1 inherits; return the child's exit code."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def main(command: list[str]) -> int:
    """Run the command; return its exit code as a shell does."""
    group = 0

    def stop(number: int, _frame: object) -> None:
        if not group:
            sys.exit(128 + number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        child = subprocess.Popen(command, preexec_fn=take_terminal)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    group = child.pid
    code = wait_for(child.pid)
    while True:
        # Orphans count as members of the group until this process waits for them.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return code if code >= 0 else 128 - code
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
