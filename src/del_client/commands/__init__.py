"""The commands of del-client, one module each with a `run` that takes parsed arguments; cli.py imports them late."""
