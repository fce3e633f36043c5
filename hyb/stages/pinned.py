"""The pinned chat templates of a model that is an artifact: see `hyb.templates`."""

from __future__ import annotations

from hyb import templates
from hyb.artifact import Artifact
from hyb.hub import describe
from hyb.store import Store


def pair(model: Artifact, store: Store) -> templates.Pair | None:
    """The pair of the model's family; None for a model of no family, which keeps its own template."""
    folder = store.view(model)
    names = {f.path for f in model.files}
    wanted = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
    return templates.pair_of(describe.template_of({name: folder / name for name in wanted if name in names}))
