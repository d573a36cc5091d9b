"""`del-server serve`: answers private prompts over gRPC. Imports nothing heavy until its arguments are checked."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from del_codec.output import let_go
from del_server.config import DTYPES, ENGINES, ServeConfig, parse_engine_args
from del_server.logs import FORMATS, LEVELS, set_up
from del_server.openmp import stay_awake

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `del-server serve`, defaults from ServeConfig."""
    defaults = ServeConfig()
    add = parser.add_argument
    add("--model", default=defaults.model, help="folder, Hugging Face id, or smollm2 (default: %(default)s)")
    add(
        "--codec",
        dest="codecs",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="codec folder; repeatable, the first is the default (default: shipped codecs made for the model)",
    )
    add("--engine", choices=ENGINES, default=defaults.engine, help="what runs the model (default: %(default)s)")
    add(
        "--engine-arg",
        dest="engine_args",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of vLLM's own, such as tensor_parallel_size=2; repeatable (docs/engines.md)",
    )
    add("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=defaults.port, help="0 picks a free one (default: %(default)s)")
    add("--metrics-port", type=int, default=defaults.metrics_port, help="Prometheus endpoint (default: 0, off)")
    add("--metrics-host", default="", metavar="HOST", help="address that it listens on (default: that of --host)")
    add("--tracing", action="store_true", help="OpenTelemetry spans, sent as the OTEL_ variables say (docs/tracing.md)")
    add(
        "--max-concurrent",
        type=int,
        default=defaults.max_concurrent,
        metavar="N",
        help="answers in progress at once; eight times as many may wait (default: %(default)s)",
    )
    add(
        "--replicas",
        type=int,
        default=defaults.replicas,
        metavar="N",
        help="so many models, one a GPU, each with as many answers at once (default: %(default)s)",
    )
    add(
        "--kv-tokens",
        type=int,
        default=defaults.kv_tokens,
        metavar="N",
        help="tokens of keys and values that all answers in progress may take (default: 0, as many contexts)",
    )
    add(
        "--kv-bytes",
        type=int,
        default=defaults.kv_bytes,
        metavar="N",
        help="memory that all keys and values may take, instead of --kv-tokens (default: 0, off)",
    )
    add("--context", dest="context_tokens", type=int, default=0, metavar="N", help="at most (default: 0, the model's)")
    add("--compile", action="store_true", help="compile the steps of a model on one GPU (docs/batching.md)")
    add("--dtype", choices=DTYPES, default=defaults.dtype, help="auto: bfloat16 with CUDA, float32 without")
    add("--device", default=defaults.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM certificate, and those between it and its root")
    add("--tls-key", type=Path, metavar="FILE", help="its PEM key; the files may be replaced while the server runs")
    add("--tls-client-ca", type=Path, metavar="FILE", help="have clients show certificates of these authorities")
    add("--insecure", action="store_true", help="PLAIN TEXT to other machines: everyone on the way reads it")
    add("--tokens", type=Path, metavar="FILE", help="have callers show tokens of it; `del-server token` writes it")
    add("--quotas", type=Path, metavar="FILE", help="TOML: what callers may take a minute (docs/security.md)")
    add(
        "--connection-age",
        type=float,
        default=defaults.connection_age,
        metavar="S",
        help="after which clients make a new connection, maybe to another server; 0: never (default: %(default)s)",
    )
    add("--log-format", choices=FORMATS, default="text", help="of standard error (default: %(default)s)")
    add("--log-level", choices=LEVELS, default="warning", help="info: a line a query (default: %(default)s)")
    add("--channelz", action="store_true", help="let callers read gRPC's account of its connections")
    add(
        "--drain-seconds",
        type=float,
        default=defaults.drain_seconds,
        metavar="S",
        help="how long queries may go on after SIGTERM (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Serve until told to stop. Raises DelError with what to do about it."""
    set_up(arguments.log_format, arguments.log_level)
    no_bars_in_logs()
    config = read_config(arguments)
    if config.engine == "transformers":  # vLLM's processes would take it over, and may have another OpenMP
        stay_awake()
    from del_server.app import serve

    serve(config, announce=announce)


def no_bars_in_logs() -> None:
    """Progress bars of the libraries that read weights are for people alone. To be called before they are imported."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def announce(line: str) -> None:
    """Print a line. A disk that is full under standard output is no reason not to serve."""
    try:
        print(line, flush=True)
    except OSError as error:
        let_go(sys.stdout)
        logger.warning("standard output can't be written (%s)", error.strerror)


def read_config(arguments: argparse.Namespace) -> ServeConfig:
    """What the arguments ask for. Raises InvalidValue."""
    asked = {name: getattr(arguments, name) for name in ServeConfig.__dataclass_fields__}
    lists = {"codecs": tuple(arguments.codecs), "engine_args": parse_engine_args(arguments.engine_args)}
    return ServeConfig(**{**asked, **lists})
