"""Opt-out headers: `X-Robots-Tag` with noai, noimageai and the like."""

from __future__ import annotations

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
"""What img2dataset, too, honors by default."""

_ROBOTS_VALUES = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}


def robots_directives(header: str, user_agent: str) -> set[str]:
    """The directives of an `X-Robots-Tag` that are meant for us, in lower case.

    `agent: directive, directive` is for one program alone, `none` means noindex and nofollow.
    """
    found, is_for_us = set(), True
    for part in header.lower().split(","):
        name, colon, value = (text.strip() for text in part.partition(":"))
        if colon and name not in _ROBOTS_VALUES:
            is_for_us = bool(name) and name in user_agent.lower()
        directive = value if colon else name
        if is_for_us:
            found |= {"noindex", "nofollow"} if directive == "none" else {directive}
    return found
