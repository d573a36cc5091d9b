"""The commands of del-server, one module each; cli.py imports them late."""
