"""vLLM without a server: tokens a second of one batch of prompt embeddings, the limit of `--engine vllm`.

A process that answers each line "STREAMS TOKENS" on its input with a figure; `asking` starts it. Needs vLLM's
environment.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

READY = "ready"


@contextmanager
def asking(dtype: str = "float32") -> Iterator[Callable[[int, int], float]]:
    """A function from streams and tokens of each answer to tokens a second, until the context is left."""
    command = [sys.executable, "-m", "benchmarks.offline_vllm", dtype]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def line_after(text: str) -> str:
            process.stdin.write(text)
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("offline "):
                    return line.split()[1]
            raise SystemExit("offline vLLM ended")

        try:
            line_after("")
            yield lambda streams, tokens: float(line_after(f"{streams} {tokens}\n"))
        finally:
            process.stdin.close()


def main() -> None:
    """Answer lines until the input ends."""
    from vllm import LLM, SamplingParams

    from benchmarks.batching import Bench
    from del_server.models import smollm2_folder

    bench = Bench("")
    llm = LLM(
        model=str(smollm2_folder()),
        dtype=sys.argv[1],
        enable_prompt_embeds=True,
        enforce_eager=True,
        skip_tokenizer_init=True,
        enable_prefix_caching=True,
        generation_config="vllm",
        max_model_len=2048,
        block_size=32,
    )
    print(f"offline {READY}", flush=True)
    for line in sys.stdin:
        streams, tokens = map(int, line.split())
        prompts = [{"prompt_embeds": bench.embeddings()} for _ in range(streams)]
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        answers = llm.generate(prompts, sampling, use_tqdm=False)
        made = sum(len(answer.outputs[0].token_ids) for answer in answers)
        print(f"offline {made / (time.perf_counter() - started)}", flush=True)


if __name__ == "__main__":
    main()
