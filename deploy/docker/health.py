"""Whether a server answers "serving" to grpc.health.v1: the exit code of a container's health check, 0 or 1.

DEL_HEALTH holds options for where no command line can be given. Knows nothing of del_server: it asks over the wire.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4.0


def main() -> int:
    """Ask once; 0 if the service is serving."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--service", default="", help="default: the server as a whole")
    parser.add_argument("--ca", type=Path, help="PEM: authorities of the server's certificate; plain text without")
    parser.add_argument("--name", help="the name in that certificate, where it isn't the address")
    parser.add_argument("--cert", type=Path, help="PEM: a client's certificate, for a server that asks")
    parser.add_argument("--key", type=Path, help="PEM: its key")
    arguments = parser.parse_args([*shlex.split(os.environ.get("DEL_HEALTH", "")), *sys.argv[1:]])
    with open_channel(arguments) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=arguments.service), timeout=SECONDS)
        except grpc.RpcError as error:
            print(f"{arguments.address}: {error.code().name}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


def open_channel(arguments: argparse.Namespace) -> grpc.Channel:
    """A channel to the address, over TLS where authorities are named."""
    if arguments.ca is None:
        return grpc.insecure_channel(arguments.address)
    ca, cert, key = (path and path.read_bytes() for path in (arguments.ca, arguments.cert, arguments.key))
    options = [("grpc.ssl_target_name_override", arguments.name)] if arguments.name else []
    return grpc.secure_channel(arguments.address, grpc.ssl_channel_credentials(ca, key, cert), options)


if __name__ == "__main__":
    sys.exit(main())
