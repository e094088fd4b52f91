"""How many connections this process may have, by the descriptors that the system gives it."""

from __future__ import annotations

import logging
import resource

import config
from lft.options import plural

log = logging.getLogger("server")


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the limit then (main)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return config.MAX_CONNECTIONS + config.RESERVED_DESCRIPTORS
    if hard == resource.RLIM_INFINITY or hard > soft:
        # no more than is of use: some systems refuse the very large numbers that they name
        wanted = config.MAX_CONNECTIONS + config.RESERVED_DESCRIPTORS
        wanted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        soft = _try_limit(max(soft, wanted), soft, hard)
    return soft


def _try_limit(wanted: int, soft: int, hard: int) -> int:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files stays at %d: %s", soft, error)
        return soft
    return wanted


def places(limit: int) -> int:
    """Return how many connections fit ``limit`` beside the files that transfers need."""
    most = max(limit - config.RESERVED_DESCRIPTORS, limit // 2)
    if most < config.MAX_CONNECTIONS:
        log.info("%s: %s at most (ulimit -n raises that)",
                 plural(limit, "open file"), plural(most, "connection"))  # fmt: skip
    return min(most, config.MAX_CONNECTIONS)
