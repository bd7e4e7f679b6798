# SPDX-License-Identifier: MIT
"""For all tests: what the shell that started them may have taken away."""

import signal

# Background jobs and nohup ignore these, which every program that is started here would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
