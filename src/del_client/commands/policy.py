"""`del-client policy`: the policy that holds, checked whole, as a policy file with every default filled in."""

from __future__ import annotations

import argparse
import sys

from del_client.policy import Policy


def run(arguments: argparse.Namespace) -> int:
    """Print it; 0."""
    policy = Policy.load(arguments.policy) if arguments.policy else Policy()
    source = arguments.policy or "no policy file: these are the defaults"
    sys.stdout.write(f"# {source}\n{policy.to_toml()}")
    return 0
