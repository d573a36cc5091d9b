"""What an operator sees: Prometheus metrics of one server, in a registry of their own.

serving.py counts queries, tokens, bytes and time, calls.py what gRPC does, gpu.py reads the memory of GPUs.
docs/metrics.md is made from them. Knows nothing of gRPC or engines, which are read through callbacks.
"""

from del_server.metrics.calls import CallMetrics
from del_server.metrics.serving import Bounds, Facts, Gauges, Metrics

__all__ = ["Bounds", "CallMetrics", "Facts", "Gauges", "Metrics"]
