"""Whether a file fits the quota of its user."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

from config import ServerSettings
from lft.options import format_both, format_size
from lft.server.admission import Admission
from lft.server.transfer import Transfer
from lft.store.part import Part
from lft.store.partstore import PartStore
from lft.store.paths import counted
from lft.store.usage import Usage
from protocol import RejectedError


class Quota:
    """Counts a user's directory: files published, on their way, or unfinished (a worker)."""

    def __init__(self, output: Path, admission: Admission, parts: PartStore) -> None:
        self._usage = Usage(output)
        self._admission = admission
        self._parts = parts

    def check(
        self,
        transfer: Transfer,
        own: Part | None = None,
        *,
        anew: bool,
        replaces: bool = False,
        size: int | None = None,
    ) -> None:
        """Raise ``RejectedError`` if the directory has no room for the file, or ``size`` of it.

        Each counts once, also where it is published meanwhile. ``own`` is a part file that the
        transfer goes on with. Unless it begins ``anew``, no earlier attempt at the same file
        counts: it may go on with one of them. Nor do those that rest where it ``replaces`` them;
        once they are removed, one that comes to rest meanwhile counts.
        """
        quota = transfer.session.rights.quota
        if quota is None:
            return
        directory = transfer.facts.directory
        reserved = self._reserved(transfer, own, anew=anew, replaces=replaces)
        quota += 0 if anew else self._parts.published_bytes(transfer.facts)
        size = transfer.facts.counts if size is None else counted(size)
        earlier = self._earlier(transfer, anew=anew)
        used = self._used(directory, reserved, earlier)
        if used + size > quota:  # before it is refused, be sure
            used = self._used(directory, reserved, earlier, surely=True)
        check_room(transfer, size, quota - used)

    def create(self, transfer: Transfer) -> Part:
        """Return a new part file for a transfer. Raises ``RejectedError`` if it has no room."""
        self.check(transfer, anew=True)
        return self._parts.create(transfer.facts)

    def publish(self, part: Part) -> str:
        """Publish a file; it counts as published before it ends to count as on its way."""
        usage, directory, reserved_as = self._usage, part.facts.directory, part.facts.saved_as
        if part.published:  # before a kill, it has been counted
            return part.publish()
        usage.add(directory, reserved_as, part.facts.counts)
        try:
            name = part.publish()
        except BaseException:
            usage.take_back(directory, reserved_as)
            raise
        usage.note_published(directory, reserved_as)
        return name

    def _reserved(
        self, transfer: Transfer, own: Part | None, *, anew: bool, replaces: bool
    ) -> dict[str, int]:
        """Return what other part files count, each by the name that it is to get."""
        key, directory = transfer.facts.key, transfer.facts.directory
        moving = self._parts.used(directory, own)
        resting = self._parts.resting(directory)
        if not anew:
            moving = [facts for facts in moving if facts.key != key]
        if replaces or not anew:
            resting = [facts for facts in resting if facts.key != key]
        return {one.saved_as: one.counts for one in (*moving, *resting)}

    def _earlier(self, transfer: Transfer, *, anew: bool) -> list[Transfer]:
        """Return the transfers that came before this one, in their order; some have a part file."""
        earlier = sorted(self._admission.earlier(transfer), key=attrgetter("turn"))
        return [one for one in earlier if anew or one.facts.key != transfer.facts.key]

    def _used(
        self,
        directory: str,
        reserved: dict[str, int],
        earlier: list[Transfer],
        *,
        surely: bool = False,
    ) -> int:
        """Return what a directory counts with part files, and with ``earlier`` ones that fit.

        One that does not fit is about to be refused: it takes no room from one that came later.
        """
        used = self._usage.total(directory, reserved, surely=surely)
        granted = dict(reserved)
        for one in earlier:
            most, size = one.session.rights.quota, one.facts.counts
            if one.facts.saved_as not in granted and (most is None or used + size <= most):
                granted[one.facts.saved_as] = size
                used += size
        return self._usage.total(directory, granted)


def quota_for(settings: ServerSettings, admission: Admission, parts: PartStore) -> Quota:
    """Return what checks quotas: of this server alone, or with others that share the directory."""
    if not settings.shared:
        return Quota(settings.output, admission, parts)
    from lft.server.shared_quota import SharedQuota  # noqa: PLC0415  (few servers share)

    return SharedQuota(settings.output, admission, parts)


def check_room(transfer: Transfer, size: int, left: int) -> None:
    """Raise ``RejectedError`` if a file that counts ``size`` bytes has no room in ``left``."""
    if size > left:
        raise RejectedError("quota", _too_much(transfer, size, max(0, left)))


def _too_much(transfer: Transfer, size: int, left: int) -> str:
    """Say what has no room in ``left`` bytes; of standard input nobody knows the whole size."""
    if transfer.facts.unsized:
        return f"it is larger than the {format_size(left)} left of the quota"
    has, room = format_both(size, left)
    least = " (what a file counts at least)" if size > transfer.blocks.size else ""
    least = " (each entry counts 4 KB at least)" if transfer.facts.is_tree else least
    return f"{has} is more than the {room} left of the quota{least}"
