"""The process that fuzzes one target by libFuzzer's coverage; `python -m tests.fuzz` starts it and reads its report.

Usage: python -m tests.fuzz.fuzzer NAME LIBFUZZER_ARGUMENT... Exits as libFuzzer does: not 0 where something broke.
"""

from __future__ import annotations

import random
import sys

import atheris

# Certificates have no branches for what these two are handed, and take most of their time.
_WITHOUT_ARITHMETIC = ("ledger", "arguments")
_INSTRUMENTED = ["del_client"] if sys.argv[1] in _WITHOUT_ARITHMETIC else ["del_codec", "del_client", "del_server"]

with atheris.instrument_imports(include=[*_INSTRUMENTED, "tomllib"]):
    from .target import Target, check_within_memory, load

    TARGET: Target = load(sys.argv[1])

# Measuring memory slows an execution down tenfold.
_MEASURED_EVERY = 1 << 12


def main() -> None:
    """Run until libFuzzer ends."""
    executions = 0
    for data in TARGET.seeds():
        TARGET.check(data)  # what is imported at first use is no input's fault

    def one_input(data: bytes) -> None:
        nonlocal executions
        executions += 1
        if executions % _MEASURED_EVERY:
            TARGET.check(data)
        else:
            check_within_memory(TARGET, data)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        return TARGET.mutate(data, lambda part: atheris.Mutate(part, most), random.Random(seed))[:most]

    own = {} if TARGET.mutate is None else {"custom_mutator": mutator}
    atheris.Setup([sys.argv[0], *sys.argv[2:]], one_input, **own)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
