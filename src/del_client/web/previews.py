"""Previews: the sketch of each open page's draft, one lock around them. Kept in memory alone, and few.

Knows nothing of HTTP.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from del_client.message import Message
from del_client.options import Options
from del_client.reading import DraftReading, read_draft
from del_client.session import Session
from del_client.sketch import Attacks, Sketch

MOST_PAGES = 8


class Previews:
    """Reads drafts of the latest MOST_PAGES pages, each known by a name of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attacks: Attacks | None = None
        self._sketches: OrderedDict[str, Sketch] = OrderedDict()

    def read(self, page: str, session: Session, chat: Sequence[Message], options: Options) -> DraftReading:
        """The reading of a page's draft; see read_draft."""
        with self._lock:
            return read_draft(session, self._sketch(page, session), chat, options)

    def _sketch(self, page: str, session: Session) -> Sketch:
        if self._attacks is None or self._attacks.table is not session.table:
            self._attacks = Attacks(session.table, session.desk.attack_prior)
            self._sketches.clear()
        sketch = self._sketches.pop(page, None) or Sketch(self._attacks)
        self._sketches[page] = sketch
        while len(self._sketches) > MOST_PAGES:
            self._sketches.popitem(last=False)
        return sketch
