"""The networks that --backbone chooses from, by name; a new one is a file and its line here.

docs/extending.md says what the class of a backbone offers. Importing it takes TensorFlow, so the
table holds where it is.
"""

import pkgutil

from data.common.errors import UserError

RESNET = "resnet"  # the only one that checkpoints of other origin hold, and that export.py exports

BACKBONES = {
    RESNET: "models.resnet:ResNet",
}


def find(name: str) -> type:
    """The class of a backbone. Raises UserError for a name that is not in `BACKBONES`."""
    if name not in BACKBONES:
        raise UserError(f"backbone {name!r} is not known: use one of {', '.join(BACKBONES)}")
    return pkgutil.resolve_name(BACKBONES[name])
