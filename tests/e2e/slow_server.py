"""`del-server` with a model that takes its time, so that a test can do something in the middle of an answer.

`python slow_server.py SECONDS_A_TOKEN serve ...`
"""

from __future__ import annotations

import sys
import time
from typing import Any

from del_server import cli
from del_server.engine import sequence

if __name__ == "__main__":
    seconds, forward = float(sys.argv[1]), sequence.forward

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return forward(*arguments, **options)

    sequence.forward = slowly
    sys.exit(cli.main(sys.argv[2:]))
