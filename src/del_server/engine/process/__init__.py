"""The transformers engine in a process of its own: one model on one GPU, under no other's interpreter lock.

frames: what goes over the socket between the two. worker: the process's side; `python -m del_server.engine.process FD`
is the program. engine: the server's side, which starts the process, and starts it again when it dies. Nothing of this
is pickled.
"""
