"""`del-server` with a model that takes its time, so that a test can do something in the middle of an answer.

`python slow_server.py SECONDS_A_TOKEN serve ...`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from del_server import cli
from del_server.engine import sequence
from del_server.engine.batch import Batch


def slowed(seconds: float, step: Callable[..., Any]) -> Callable[..., Any]:
    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return step(*arguments, **options)

    return slowly


if __name__ == "__main__":
    seconds = float(sys.argv[1])
    # One answer at a time, and many together.
    sequence.forward = slowed(seconds, sequence.forward)
    Batch.step = slowed(seconds, Batch.step)  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[2:]))
