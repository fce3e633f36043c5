"""An unchanged `hyb run` against bare Python: what it costs to see that nothing is to do. Aim: at most 0.5 s.

Uses the store of `make demo` (XDG_DATA_HOME=.demo) when it is there; otherwise it makes a recipe of the stages that
need no torch: data.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import interleaved, median, report

ROOT = Path(__file__).parents[1]
HYB = str(Path(sys.executable).parent / "hyb")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        demo = ROOT / ".demo"
        if (demo / "hyb" / "store").is_dir():
            recipe, env = ROOT / "recipes" / "quickstart", {"XDG_DATA_HOME": str(demo)}
        else:
            recipe, env = Path(temporary) / "recipe", {"XDG_DATA_HOME": temporary}
            data = ROOT / "recipes" / "quickstart" / "data" / "facts.jsonl"
            recipe.mkdir()
            (recipe / "hyb.yaml").write_text(f"hyb: 1\nname: r\nstages:\n  facts: {{stage: data, source: {data}}}\n")
        subprocess.run([HYB, "run", str(recipe), "-q"], env={**os.environ, **env}, check=True, capture_output=True)
        found = interleaved(
            {
                "python -c pass": [sys.executable, "-c", "pass"],
                "hyb run, unchanged": [HYB, "run", str(recipe), "-q", "--offline"],
            },
            runs=9,
            env=env,
        )
    bare = median([wall for _, wall in found["python -c pass"]])
    rows = [
        {
            "command": name,
            "wall_s": round(wall := median([w for _, w in runs]), 3),
            "cpu_s": round(median([c for c, _ in runs]), 3),
            "of_bare_python": round(wall / bare, 1),
        }
        for name, runs in found.items()
    ]
    report("rerun", f"Unchanged re-run of {recipe.name}, median of 9 runs in turn", rows)


if __name__ == "__main__":
    main()
