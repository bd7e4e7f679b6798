# SPDX-License-Identifier: MIT
"""For all tests: what the shell that started them may have taken away."""

import signal

# The background jobs of a script ignore these two, which every program that is started here would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
