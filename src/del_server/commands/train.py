"""`del-server train`: from a model and text to a codec's folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from del_codec.errors import ArtifactError, InvalidValue
from del_codec.shipped import DEVICE_FILE
from del_server.models import load_model, resolve
from del_server.training import recipe as recipes
from del_server.training.recipe import Recipe
from del_server.training.self_text import SelfText, sample, template_between
from del_server.training.text import Corpus, read_dataset, read_texts, tokenize
from del_server.training.train import Subject, Trainer, TrainingOptions
from del_server.training.writing import writing

SELF_TEXT_FILE = "self_text.safetensors"
CHECKPOINT_FILE = "checkpoint.safetensors"
RUN_FILE = "run.json"
# As devices write them in a secret's place (docs/spans.md).
PLACEHOLDERS = tuple(f" [{kind}_{n}]" for kind in ("NAME", "NUMBER", "EMAIL", "DATE", "ADDRESS") for n in (1, 2, 3))
DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server train`."""
    defaults = TrainingOptions()
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder or a Hugging Face id (default: smollm2)")
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="FILE", help=".txt or .jsonl, also .xz")
    parser.add_argument(
        "--dataset", nargs="+", default=[], metavar="NAME[:CONFIG][:SPLIT]", help="of the `datasets` library"
    )
    parser.add_argument(
        "--dataset-documents", type=int, default=20000, metavar="N", help="of each dataset (default: %(default)s)"
    )
    parser.add_argument("--self-text", type=int, default=0, metavar="N", help="add N samples of the model's own")
    parser.add_argument("--self-text-file", type=Path, metavar="FILE", help="samples that an earlier run drew")
    parser.add_argument("--self-text-batch", type=int, default=256, help="samples at once (default: %(default)s)")
    parser.add_argument("--users", type=Path, nargs="+", default=[], metavar="FILE", help="users' words to be answered")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new codec")
    parser.add_argument("--recipe", default="joint", help=f"{', '.join(recipes.names())}, or a .json file")
    parser.add_argument("--dim", type=int, default=defaults.dim, help="coordinates a token (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="(default: %(default)s)")
    parser.add_argument("--reference-steps", type=int, default=defaults.reference_steps, help="(default: %(default)s)")
    parser.add_argument(
        "--references", type=Path, metavar="DIR", help="take floor and ceiling of this codec, trained on the same text"
    )
    parser.add_argument("--batch", type=int, default=defaults.batch, help="sequences a step (default: %(default)s)")
    parser.add_argument("--mu", default="1:60", metavar="LO:HI", help="range of noise (default: %(default)s)")
    parser.add_argument("--chat-share", type=float, default=defaults.chat_share, help="(default: %(default)s)")
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="LoRA of rank R on the model (default: none)")
    parser.add_argument(
        "--mixed-precision",
        default="no",
        choices=("no", "bf16", "fp16"),
        help="accelerate's, for what is trained (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")


def run(arguments: argparse.Namespace) -> None:
    """Train and write the folder. Raises DelError with what to do about it."""
    recipe = recipes.load(arguments.recipe)
    low, high = parse_range(arguments.mu)
    options = TrainingOptions(
        dim=arguments.dim,
        steps=_at_least("steps", arguments.steps, 1),
        reference_steps=_at_least("reference-steps", arguments.reference_steps, 1),
        batch=_at_least("batch", arguments.batch, 1),
        mu_low=low,
        mu_high=high,
        chat_share=arguments.chat_share,
        lora=_at_least("lora", arguments.lora, 0),
        mixed_precision=arguments.mixed_precision,
        seed=arguments.seed,
    )
    _claim_folder(arguments.out, arguments.resume)
    subject, tokenizer = load_subject(arguments.model, arguments.dtype, _device(arguments.device))
    own = _self_text(arguments, subject.model, tokenizer)
    texts = [text for path in arguments.text for text in read_texts(path)]
    for name in arguments.dataset:
        texts += read_dataset(name, _at_least("dataset-documents", arguments.dataset_documents, 1))
    sources = {"text_files": [path.name for path in arguments.text], "datasets": arguments.dataset}
    sources |= {"own_documents": len(own.documents), "own_turns": len(own.turns)}
    corpus = read_corpus(tokenizer, texts, own)
    if make_codec(subject, recipe, options, corpus, arguments.out, sources, arguments.references):
        print(f"codec written to {arguments.out}; now: del-server evaluate --codec {arguments.out} --text FILE...")


def load_subject(model: str, dtype: str, device: str) -> tuple[Subject, Any]:
    """A model as what a codec is made for, and its transformers tokenizer. Raises ArtifactError."""
    loaded = load_model(model, dtype, device)
    tokenizer = hub_tokenizer(model)
    return Subject(model, loaded, tokenizer_file(tokenizer), tokenizer.chat_template or ""), tokenizer


def read_corpus(tokenizer: Any, texts: Sequence[str], own: SelfText) -> Corpus:
    """Texts and a model's own samples as ids, with what stands between turns and in secrets' places."""
    separator = separator_id(tokenizer)
    return Corpus(
        stream=np.concatenate([tokenize(tokenizer, texts, separator), *own.documents]),
        turns=own.turns,
        between=template_between(tokenizer),
        placeholders=[tokenize(tokenizer, [text], separator)[:-1] for text in PLACEHOLDERS],
    )


def make_codec(
    subject: Subject,
    recipe: Recipe,
    options: TrainingOptions,
    corpus: Corpus,
    out: Path,
    sources: dict[str, Any],
    references: Path | None = None,
) -> bool:
    """Train from the checkpoint in `out`, where there is one, and write the codec's folder and run.json with the
    sources; whether this process wrote it (of several, the main one does). references: a codec whose floor and ceiling
    are taken."""
    trainer = Trainer(subject, recipe, options, corpus, references)
    losses, speed = trainer.run(out / CHECKPOINT_FILE)
    if not trainer.accelerator.is_main_process:
        return False
    facts = {
        "model": subject.name,
        "recipe": asdict(recipe),
        "options": asdict(options),
        "references": references.name if references else "trained",
        **sources,
        "text_tokens": len(corpus.stream),
        "final_losses": losses,
        "speed": asdict(speed),
    }
    with writing(out, "free some space; --resume goes on from the latest checkpoint, where one was kept"):
        trainer.save(out)
        (out / RUN_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)
    return True


def _device(asked: str) -> str:
    """Under several processes each has a GPU of its own; else as asked."""
    state = PartialState()
    return str(state.device) if asked == "auto" and state.num_processes > 1 else asked


def parse_range(text: str) -> tuple[float, float]:
    """LO:HI of --mu. Raises InvalidValue."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise InvalidValue("mu", text, "use LO:HI, say 1:60") from None
    return low, high


def hub_tokenizer(model: str) -> Any:
    """The transformers tokenizer of a model. Raises ArtifactError if it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve(model))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"model {model} has no tokenizer that can be read: {reason}") from None


def separator_id(tokenizer: Any) -> int:
    """The id that stands between documents: the unknown token's, or the end of sequence.

    Raises ArtifactError for a tokenizer without either.
    """
    token = tokenizer.unk_token or tokenizer.eos_token
    if token is None:
        raise ArtifactError(f"tokenizer {tokenizer.name_or_path} names neither an unknown nor an end-of-sequence token")
    return int(tokenizer.convert_tokens_to_ids(token))


def tokenizer_file(tokenizer: Any) -> bytes:
    """tokenizer.json as the model's folder has it, or as the fast tokenizer writes it."""
    path = Path(tokenizer.name_or_path) / "tokenizer.json"
    if path.is_file():
        return path.read_bytes()
    return str(tokenizer.backend_tokenizer.to_str()).encode()


def _self_text(arguments: argparse.Namespace, model: Any, tokenizer: Any) -> SelfText:
    kept = arguments.self_text_file or arguments.out / SELF_TEXT_FILE
    if arguments.self_text_file or kept.is_file():
        return SelfText.load(kept)
    if not arguments.self_text:
        return SelfText([], [])
    users = [text for path in arguments.users for text in read_texts(path)]
    size = _at_least("self-text-batch", arguments.self_text_batch, 1)
    own = sample(model, tokenizer, arguments.self_text, seed=arguments.seed, batch_size=size, user_texts=users)
    with writing(arguments.out, "free some space, and start again"):
        own.save(arguments.out / SELF_TEXT_FILE)
    return own


def _claim_folder(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidValue("out", str(out), "is a file; name a folder")
    stopped = (out / CHECKPOINT_FILE).exists()
    finished = (out / DEVICE_FILE).exists() and not stopped
    if out.is_dir() and any(out.iterdir()) and (finished or not resume):
        what = "holds a stopped run: add --resume, or" if stopped else "is not empty:"
        raise InvalidValue("out", str(out), f"{what} name another folder")
    out.mkdir(parents=True, exist_ok=True)


def _at_least(field: str, value: int, least: int) -> int:
    if value < least:
        raise InvalidValue(field, value, f"use at least {least}")
    return value
