"""pip as if it ran on another machine: `python -m hyb.workers.pip_there MACHINE 3.X …`, then what pip takes.

pip has options for the files that fit elsewhere (`--platform`, `--python-version`), but asks the machine on which it
runs whether a package is needed at all (`; python_version < "3.13"`, `; platform_machine == "x86_64"`). It gets these
facts from the module `platform`, so that answers here for the Linux machine that is meant.
"""

from __future__ import annotations

import platform
import runpy
import sys


def main(machine: str, python: str, *arguments: str) -> None:
    """Run pip with `arguments`; ends the process as pip does. `python`: `3.12`, taken as its first release."""
    version = (*python.split("."), "0")
    answers = {
        "machine": machine, "system": "Linux", "python_version": ".".join(version), "python_version_tuple": version
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(platform, name, lambda answer=answer: answer)
    sys.argv = ["pip", *arguments]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
