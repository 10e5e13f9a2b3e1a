"""For all tests."""

from __future__ import annotations

import signal

# A shell starts background jobs with Ctrl-C ignored, and nohup does the same with the terminal's end; so would be every
# process that the tests start and signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
