"""Whether a server answers "serving" to grpc.health.v1: the exit code of a container's health check, 0 or 1.

Knows nothing of del_server: it asks over the wire, as a balancer does.
"""

from __future__ import annotations

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4.0


def main() -> int:
    """Ask once; 0 if the service is serving."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--service", default="", help="default: the server as a whole")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=arguments.service), timeout=SECONDS)
        except grpc.RpcError as error:
            print(f"{arguments.address}: {error.code().name}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main())
