"""The backbones that --backbone selects by name; to add one, write its file and a line here.

docs/extending.md describes the interface of a backbone class. Importing one imports TensorFlow, so
the table holds import paths.
"""

import pkgutil

from data.common.errors import UserError

RESNET = "resnet"  # the only one in checkpoints from elsewhere, and that export.py supports

BACKBONES = {
    RESNET: "models.resnet:ResNet",
}


def find(name: str) -> type:
    """The class of a backbone. Raises UserError for a name that is not in `BACKBONES`."""
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}: use one of {', '.join(BACKBONES)}")
    return pkgutil.resolve_name(BACKBONES[name])
