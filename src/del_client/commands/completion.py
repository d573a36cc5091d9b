"""`del-client completion`: a script for bash or zsh, made from the parser itself so that it can't fall behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from del_client.parser import build_parser

_SCRIPT = """{prelude}_del_client() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words=
    case $previous in
        {files}) COMPREPLY=($(compgen -f -- "$current")); return ;;
        {values}) COMPREPLY=(); return ;;
    esac
    if [[ $COMP_CWORD == 1 ]]; then
        words="{commands} --help"
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _del_client del-client
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def run(arguments: argparse.Namespace) -> int:
    """Print the script; 0."""
    sys.stdout.write(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """The completion script for "bash" or "zsh"."""
    commands = _commands()
    actions = [action for parser in commands.values() for action in parser._actions]
    files = {flag for action in actions if action.type is Path for flag in action.option_strings}
    values = {flag for action in actions if action.nargs is None for flag in action.option_strings} - files
    cases = (f"            {name}) words={_quoted(_words(parser))} ;;" for name, parser in commands.items())
    return _SCRIPT.format(
        prelude=_ZSH if shell == "zsh" else "",
        files="|".join(sorted(files)),
        values="|".join(sorted(values)),
        commands=" ".join(commands),
        cases="\n".join(cases),
    )


def _commands() -> dict[str, argparse.ArgumentParser]:
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise RuntimeError("the parser has commands")


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of a command, and the words that it may be followed by."""
    words: list[str] = []
    for action in parser._actions:
        words += action.option_strings or map(str, action.choices or ())
    return words


def _quoted(words: list[str]) -> str:
    return '"' + " ".join(words) + '"'
