"""A child that has no more rights than the files' modes give, so that tests of them mean something to root, too."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from hyb.errors import HybError

_VERSION_3 = 0x20080522  # linux/capability.h


def unprivileged(work: Callable[[], object]) -> str:
    """What `work` returns as text, or the message of its HybError, after all capabilities were dropped."""
    inward, outward = os.pipe()
    if (child := os.fork()) == 0:
        try:
            header, nothing = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
            if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(header, nothing):
                os._exit(2)
            try:
                said = str(work())
            except HybError as error:
                said = error.message
            os.write(outward, said.encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(outward)
    with os.fdopen(inward, "rb") as stream:
        said = stream.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child failed"
    return said
