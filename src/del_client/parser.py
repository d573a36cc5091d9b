"""The arguments of del-client, with help that teaches. Imports nothing heavy: --help and completion are instant."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import NoReturn, TypeAlias

from del_client.config import SETTINGS
from del_client.defaults import DEFAULT_DELTA, GATEWAY_HOST, GATEWAY_PORT, RULE

BAD_INPUT = 2

_SERVER = ("server", "tls_ca", "tls_cert", "tls_key", "tls_name", "insecure", "server_token_file")
_NOISE = ("mu", "bits", "delta")
_FILES = ("tokenizer", "chat_template")
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "timeout", "patience")
_SHAPING = ("pad", "interval", "group")
_ASKING = (*_SERVER, "policy", "ledger", *_NOISE, "system", *_SAMPLING, *_SHAPING, *_FILES)

_ORDER = "Settings: a flag goes before a DEL_ variable, it before the file; `del-client config` shows what holds."


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and leave."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def build_parser() -> Parser:
    """The parser of all commands; `configured` tells those whose settings come from elsewhere, too."""
    parser = Parser(
        prog="del-client",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Ask a language model on a server; your words leave this device only as randomised bits.",
        epilog=_examples(
            "del-client ask 'What helps against a cold?'        one question",
            "del-client chat --mu 15                            a conversation",
            "del-client inspect 'What helps against a cold?'    what a server would read; nothing is sent",
            "del-client COMMAND --help                          more of each",
        ),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_ask,
        _add_chat,
        _add_classify,
        _add_inspect,
        _add_gateway,
        _add_certify,
        _add_budget,
        _add_policy,
        _add_config,
        _add_completion,
    ):
        add(commands)
    return parser


def _add_ask(commands: Commands) -> None:
    ask = _command(
        commands,
        "ask",
        "ask a question and stream the answer",
        "Ask a question: your words leave this device only as randomised bits. Of --mu and --bits, what you leave out "
        f"is chosen by a rule: {RULE}. The answer goes to standard output, what it gave away to standard error.",
        "del-client ask 'What helps against a cold?' --mu 15",
        "echo 'Shorten this: ...' | del-client ask > answer.txt",
        "del-client ask 'What helps?' --json | jq .epsilon_prompt",
    )
    _add_settings(ask, *_ASKING)
    _add_prompt(ask)
    ask.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end the answer before it; repeatable")
    ask.add_argument("--public", action="store_true", help="NO PRIVACY: send the whole prompt as plain token ids")
    ask.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    ask.add_argument("--quiet", action="store_true", help="print the answer alone")


def _add_chat(commands: Commands) -> None:
    chat = _command(
        commands,
        "chat",
        "talk, turn by turn",
        "A conversation in the terminal. Earlier turns are sent again as the very bits that they were, so each turn "
        "gives away its own new words alone. /help lists what else may be typed; Ctrl-C stops an answer, Ctrl-D ends.",
        "del-client chat",
        "del-client chat --system 'Answer in one sentence.' --mu 15",
    )
    _add_settings(chat, *_ASKING)


def _add_classify(commands: Commands) -> None:
    classify = _command(
        commands,
        "classify",
        "say which of some labels a text has",
        "Rank labels by how likely the model finds each after a private text: the text leaves this device only as "
        "randomised bits; the labels and the words around the text are public. A task of the server's brings labels "
        "and a training of its own.",
        "del-client classify 'The plot is thin.' --task sst2",
        "del-client classify 'It rains.' --pair 'The sky is blue.' --labels yes no --template '{} So: {} True?'",
    )
    _add_settings(classify, *_SERVER, "policy", "ledger", *_NOISE, "timeout", "patience", *_FILES)
    classify.add_argument("prompt", nargs="?", metavar="TEXT", help='the text; "-" or nothing: standard input')
    classify.add_argument("--pair", metavar="TEXT", help="a second private text, to be judged with the first")
    classify.add_argument("--labels", nargs="+", metavar="LABEL", help="PUBLIC: the answers to choose from")
    classify.add_argument("--task", default="", metavar="NAME", help="a task of the server's, trained for its question")
    classify.add_argument("--template", help="PUBLIC: the words around the texts, {} where each stands")
    classify.add_argument("--public", action="store_true", help="NO PRIVACY: send the whole prompt as plain token ids")
    classify.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    classify.add_argument("--quiet", action="store_true", help="print the labels alone")


def _add_inspect(commands: Commands) -> None:
    inspect = _command(
        commands,
        "inspect",
        "show what a server could read from each token",
        "For each token: what would leave this device and what the best attack on single tokens makes of it. The bits "
        "are drawn for this preview and never sent.",
        "del-client inspect 'My name is Ada.' --mu 5",
        "del-client inspect 'My name is Ada.' --codec my-codec    no server needed",
    )
    _add_settings(inspect, *_SERVER, "policy", *_NOISE, "system", *_FILES)
    _add_prompt(inspect)
    inspect.add_argument("--codec", type=Path, metavar="FILE", help="device.safetensors or its folder; no server then")


def _add_gateway(commands: Commands) -> None:
    gateway = _command(
        commands,
        "gateway",
        "let any app ask: OpenAI's HTTP interface on this device",
        "OpenAI's HTTP interface, bound to this device: an app that is pointed at it asks privately, without a change. "
        "docs/gateway.md says what it takes and refuses.",
        "del-client gateway",
        "OPENAI_BASE_URL=http://127.0.0.1:8085/v1 OPENAI_API_KEY=none your-app",
        "del-client gateway --host 0.0.0.0 --token-file token --allow-host my-device.lan",
    )
    _add_settings(gateway, *(name for name in _ASKING if name not in ("system", "delta")))
    gateway.add_argument("--host", default=GATEWAY_HOST, metavar="ADDRESS", help=f"to listen on ({GATEWAY_HOST})")
    gateway.add_argument(
        "--port", type=int, default=GATEWAY_PORT, metavar="N", help=f"0: any free one ({GATEWAY_PORT})"
    )
    gateway.add_argument("--token-file", type=Path, metavar="FILE", help="the token that callers show; beyond loopback")
    gateway.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="answer to it; repeatable")
    gateway.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="stands for the served model; * for any; repeatable",
    )
    gateway.add_argument(
        "--public-texts", type=Path, metavar="FILE", help="SHA-256 of texts that may leave in the clear, one a line"
    )


def _add_certify(commands: Commands) -> None:
    certify = _command(
        commands,
        "certify",
        "compute the exact guarantee of a setting",
        "The exact guarantee of a setting, computed here: no server, no codec, no prompt.",
        "del-client certify --dim 64 --bits 1 --mu 11 --tokens 15",
    )
    certify.set_defaults(configured=False)
    certify.add_argument("--dim", type=int, required=True, metavar="D", help="coordinates a token")
    certify.add_argument("--bits", type=int, required=True, metavar="N", help="bits a coordinate, 1 to 8")
    certify.add_argument("--mu", type=float, required=True, metavar="M", help="noise: 1 is strong, 60 is weak")
    certify.add_argument("--tokens", type=int, default=1, metavar="T", help="tokens certified together (1)")
    certify.add_argument("--delta", type=float, default=DEFAULT_DELTA, metavar="X", help=f"({DEFAULT_DELTA:g})")
    certify.add_argument("--vocabulary", type=int, default=49152, metavar="V", help="of the cap (49152)")
    certify.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_budget(commands: Commands) -> None:
    budget = _command(
        commands,
        "budget",
        "show what was given away, and what is left under the policy",
        "What this device has given away by its ledger, and what the policy leaves of today's limits and of the latest "
        "conversation's. --forget erases remembered bits; the spend stays.",
        "del-client budget --by server",
        "del-client budget --forget --all",
    )
    _add_settings(budget, "policy", "ledger")
    budget.add_argument("--by", choices=("day", "server", "conversation"), default="day", help="(day)")
    budget.add_argument("--last", type=int, default=14, metavar="N", help="rows to show (14)")
    budget.add_argument("--forget", nargs="?", const="", metavar="CONVERSATION", help="erase its remembered bits")
    budget.add_argument("--all", action="store_true", help="with --forget: those of all conversations")
    budget.add_argument(
        "--accept-clock", action="store_true", help="charge to the clock's day again after it ran ahead"
    )
    budget.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_policy(commands: Commands) -> None:
    policy = _command(
        commands,
        "policy",
        "check the policy and show what it says, defaults included",
        "What may leave this device: the policy file that holds, checked whole, with its defaults filled in. The "
        "output is a policy file itself. docs/policy.md explains every key.",
        "del-client policy --policy strict.toml",
        "DEL_POLICY=strict.toml del-client policy > every-key.toml",
    )
    _add_settings(policy, "policy")


def _add_config(commands: Commands) -> None:
    config = _command(
        commands,
        "config",
        "show every setting, its value and where it comes from",
        f"Every setting that holds here. {_ORDER} The file is $DEL_CONFIG, or ~/.config/del/client.toml.",
        "DEL_MU=15 del-client config",
        "echo 'server = \"10.0.0.7:50051\"' >> ~/.config/del/client.toml",
    )
    _add_settings(config, *(setting.name for setting in SETTINGS))


def _add_completion(commands: Commands) -> None:
    completion = _command(
        commands,
        "completion",
        "print a script that completes del-client's arguments",
        "A script for your shell. Put the line that loads it into ~/.bashrc or ~/.zshrc.",
        'eval "$(del-client completion bash)"',
        'eval "$(del-client completion zsh)"',
    )
    completion.set_defaults(configured=False)
    completion.add_argument("shell", choices=("bash", "zsh"))


def _command(commands: Commands, name: str, summary: str, description: str, *examples: str) -> Parser:
    command = commands.add_parser(
        name,
        help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(description, 100),
        epilog=_examples(*examples),
    )
    command.set_defaults(configured=True)
    return command


def _examples(*lines: str) -> str:
    return "examples:\n" + "\n".join(f"  {line}" for line in lines)


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", nargs="?", help='the question; "-" or nothing: standard input')
    command.add_argument("--plain", action="store_true", help="continue the text as it stands, without a chat template")


def _add_settings(command: argparse.ArgumentParser, *names: str) -> None:
    group = command.add_argument_group("settings", _ORDER)
    for setting in SETTINGS:
        if setting.name in names:
            help_text = f"{setting.meaning} ({setting.shown(setting.default)})".replace("%", "%%")
            if setting.read is bool:
                group.add_argument(setting.flag, action="store_const", const=True, help=help_text)
            else:
                group.add_argument(setting.flag, type=setting.read, metavar=setting.metavar, help=help_text)
