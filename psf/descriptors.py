"""How many files this process may have open: each pack of a store takes two, of a server each connection and run some."""

from __future__ import annotations

import resource

DESCRIPTORS_WANTED = 65536


def raise_descriptor_limit() -> None:
    """As far as this process may: sessions and services are given few, for programs that cannot deal with more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
