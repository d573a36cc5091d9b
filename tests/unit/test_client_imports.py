"""A device has neither torch nor transformers, and starts quickly."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import del_client

MODULES = [module.name for module in pkgutil.walk_packages(del_client.__path__, "del_client.")]

BLOCKED = """
import importlib, sys
for name in ("torch", "transformers", "accelerate", "peft", "scipy"):
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_every_module_imports_without_torch() -> None:
    assert "del_client.session" in MODULES
    result = run(BLOCKED, *MODULES)
    assert result.returncode == 0, result.stderr


def test_certify_loads_neither_grpc_nor_a_tokenizer() -> None:
    code = """
import sys
from del_client.cli import main
main(["certify", "--dim", "4", "--bits", "1", "--mu", "1", "--tokens", "1", "--delta", "1e-5"])
assert not {"grpc", "google.protobuf", "tokenizers", "jinja2"} & set(sys.modules)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_grpc_and_protobuf_stop_at_the_transport() -> None:
    code = """
import sys, importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not {name for name in sys.modules if name == "grpc" or name.startswith("google.")}
"""
    users = ("transport", "session", "client", "talk", "commands", "gateway", "reading", "web")
    outside = [name for name in MODULES if name.split(".")[1] not in users]
    result = run(code, *outside)
    assert result.returncode == 0, result.stderr


def test_what_the_package_names_is_there_and_imported_only_when_used() -> None:
    code = """
import sys, del_client
assert not [name for name in sys.modules if name.startswith(("numpy", "grpc", "tokenizers", "del_client."))]
assert dir(del_client) == del_client.__all__ == sorted(del_client.__all__)
for name in del_client.__all__:
    assert getattr(del_client, name).__name__ == name
try:
    del_client.Server
except AttributeError as error:
    assert "Server" in str(error)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
