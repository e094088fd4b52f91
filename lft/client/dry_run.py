"""--dry-run: what would be sent, without a server."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Callable, Sequence

from config import ClientSettings
from lft.client.inventory import Contents
from lft.client.outcomes import name_of, reason_of
from lft.client.source import Input
from lft.client.sources import open_source
from lft.options import format_size
from lft.terminal import printable
from protocol import SourceError

Say = Callable[[str], None]


class DryRun:
    """Tells what would be sent: a line for each thing, and one for each argument."""

    def __init__(self, settings: ClientSettings, say: Say, *, as_json: bool, brief: bool) -> None:
        """Tell with ``say``; ``as_json`` an object for each argument, ``brief`` a line for each."""
        self._settings = settings
        self._say = say
        self._as_json = as_json
        self._brief = brief or as_json
        self._sums = [0] * (len(Contents._fields) + 1)  # of the counts, and of the bytes

    def run(self, paths: Sequence[Path]) -> None:
        """Look at all ``paths``. Raises the first ``SourceError`` at the end."""
        errors: list[SourceError] = []
        for path in paths:
            try:
                with contextlib.closing(open_source(path, self._settings)) as source:
                    self._tell(source)
            except SourceError as error:
                errors.append(error)
                self._tell_error(path, error)
        if len(paths) > 1 and not self._as_json:
            *counts, size = self._sums
            self._say(f"would send {Contents(*counts)}, {format_size(size)} in all")
        if errors:
            raise errors[0]

    def _tell(self, source: Input) -> None:
        size = source.size if source.sized else 0
        self._sums = [a + b for a, b in zip(self._sums, (*source.contents, size))]
        if self._as_json:
            known = {"dry_run": True, "name": source.name, "bytes": size}
            self._say(json.dumps({**known, **source.contents._asdict()}))
            return
        for line in [] if self._brief else source.lines():
            self._say(printable(line))
        what = f"{source.contents}, {format_size(size)}" if source.sized else "what comes"
        self._say(printable(f"would send {what}  {source.name}"))

    def _tell_error(self, path: Path, error: SourceError) -> None:
        reason, name = printable(reason_of(error, path)), name_of(path)
        if self._as_json:
            known = {"dry_run": True, "name": name, "error": reason, "code": "source"}
            self._say(json.dumps({**known, "exit_code": error.exit_code}))
        else:
            self._say(printable(f"FAILED {reason}  {name}"))
