"""Model folders in the published layout: find, count, load and save their components. Importing this loads no torch.

`adapters`, `export`, `defaults`, `published` and `weights` are modules beside `components`, whose functions are here.
"""

from glmkit.models.checkpoint.components import (
    COMPONENTS,
    INDEX,
    NANO,
    PUBLISHED,
    build_component,
    config,
    create,
    hub_id,
    load_component,
    new_component,
    rebuild_derived,
    resolve,
    save_component,
    stored_tensors,
)
from glmkit.models.checkpoint.copying import copy
from glmkit.models.checkpoint.sizes import ComponentSize, describe

__all__ = [
    "COMPONENTS",
    "INDEX",
    "NANO",
    "PUBLISHED",
    "ComponentSize",
    "build_component",
    "config",
    "copy",
    "create",
    "describe",
    "hub_id",
    "load_component",
    "new_component",
    "rebuild_derived",
    "resolve",
    "save_component",
    "stored_tensors",
]
