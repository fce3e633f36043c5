"""hyb: from a downloaded language model to a private endpoint that an OpenShift namespace can call.

In a process that is to stay off the network the guard of `hyb.offline` holds from here on.
"""

import os

__version__ = "0.1.0"

if "HYB_GUARD" in os.environ or "HYB_OFFLINE" in os.environ:
    from hyb import offline

    if os.environ.get(offline.GUARD) or offline.asked(os.environ):
        offline.guard()
