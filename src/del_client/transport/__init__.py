"""The client's side of the wire: the only package of the client that sees grpc or protobuf types.

channel.py holds the one stream of a client, connection.py opens channels, messages.py turns plain data into protobuf
and back, status.py turns a server's errors into those of del_codec.
"""

from del_client.transport.channel import Transport

__all__ = ["Transport"]
