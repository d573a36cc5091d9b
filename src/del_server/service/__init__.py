"""The server's side of the wire: the only package of the server, beside app.py, that sees grpc or protobuf types.

servicer.py answers the calls, stream.py keeps the queries of one Generate call, messages.py turns protobuf into plain
data and back. What a query is lies in query.py, what an error becomes in status.py.
"""

from del_server.service.servicer import InferenceService

__all__ = ["InferenceService"]
