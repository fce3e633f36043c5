"""Settings of every test."""

from __future__ import annotations

import os
import signal

# Two OpenMP threads that spin on two busy cores make training many times slower. Must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts the tests in the background has them ignore SIGINT, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
