"""Settings of every test."""

from __future__ import annotations

import os

# Two OpenMP threads that spin on two busy cores make training many times slower. Must be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
