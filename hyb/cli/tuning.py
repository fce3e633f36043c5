"""Where `hyb tune` trains: here, in a container, or in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyb.cli.chain import Chain
    from hyb.cli.session import Session
    from hyb.recipe import Recipe


def options(inside: str, image: str, trained: Path | None) -> tuple[str, Path | None]:
    """The image to train in ("": here), and the folder to take a result from. Raises HybError (exit 2)."""
    from hyb.errors import Exit, HybError
    from hyb.tune_container import IMAGE

    if inside not in ("", "podman"):
        raise HybError(f"`--in {inside}` is unknown", hint="only `--in podman`", code=Exit.USAGE)
    if image and not inside:
        raise HybError(
            "`--image` is for `--in podman`, or `--trainjob` of `hyb tune`", hint="add `--in podman`", code=Exit.USAGE
        )
    if inside and trained:
        raise HybError("give `--in` or `--from`, not both", hint="see `hyb tune --help`", code=Exit.USAGE)
    return (image or IMAGE) if inside else "", trained


def require(recipe: Recipe) -> None:
    """Raise HybError (exit 2) for a recipe that trains nothing."""
    from hyb.errors import Exit, HybError

    if not any(e.stage == "tune" for e in recipe.entries):
        raise HybError("`--in` is for tune stages, and the recipe has none", hint="leave it out", code=Exit.USAGE)


@dataclass(frozen=True)
class TrainJob:
    """A Kubeflow TrainJob to be written to `folder`."""

    folder: Path
    image: str
    nodes: int
    claim: str

    def write(self, s: Session, chain: Chain) -> None:
        """Write it for the chain's tune stage, whose model and data are in the store. Raises HybError."""
        from hyb import trainjob
        from hyb.errors import Exit, HybError
        from hyb.recipe import build

        if not self.image:
            raise HybError(
                "`--trainjob` needs `--image`, from a registry that the cluster can reach",
                hint="`--image REGISTRY/hyb-tune@sha256:…`, built from `containers/tune`", code=Exit.USAGE,
            )  # fmt: skip
        *before, name = chain.raw
        if before:
            raise HybError(
                f"`{before[0]}` is not in the store yet", hint="`hyb pull` the model and read the rows with `hyb data`"
            )
        spec = build("", chain.raw, chain.given, chain.kinds, Path()).entries[-1].spec
        inputs = {n: s.store.artifact(d) for n, d in chain.given.items()}
        order = trainjob.Order(name, self.image, self.nodes, self.claim)
        written = trainjob.write(s.store, spec, inputs, order, self.folder, dry_run=s.dry_run)
        s.show({"written": [str(p) for p in written]}, "\n".join(str(p) for p in written))
