"""The vLLM engine: AsyncLLM on prompt embeddings. Import it only where vLLM is installed.

vLLM reads its environment when it is first imported, so what must hold there is set here, before that.
"""

import os

# Forking a process in which gRPC has threads would hang.
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
# The one that choosing.Chooser is written for.
os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
# A server for private prompts reports to nobody, unless it is told to.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# The server's standard output has its own lines alone.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
