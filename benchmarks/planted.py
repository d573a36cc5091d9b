"""Prompts with planted personal data, seeded, and what the built-in detectors and an attacker make of them.

`python -m benchmarks.planted` prints, for each kind: recall and precision of the detectors over 200 prompts; recall
where a secret is written as people write it who follow no format; and the share of secrets that an attacker reads whole
where the kind is sent at noise of its own. The attacker takes each token's most likely value, given its bits and how
often each token occurs in secrets of that kind (2,000 others).
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from del_client.policy import Kind
from del_client.protection.detectors import detectors_for
from del_client.protection.found import settle
from del_client.protection.patterns import BUILT_IN
from del_codec.attacks import map_guess
from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, TOKENIZER_FILE, codec_folders
from del_codec.table import LatentTable

PROMPTS, SEED, OTHERS, LOOSE = 200, 20261124, 2_000, 0.2
MUS = (3.0, 5.0, 11.0)


def _words(text: str) -> list[str]:
    return text.split()


FIRST = _words(
    "Ada Bao Chidi Dana Elif Femi Grace Hiro Ines Jonas Kofi Lena Mateo Nadia Omar Priya Quinn Rosa Sven Tara"
)
LAST = _words(
    "Adler Brandt Costa Dubois Eriksen Fischer Garcia Hansen Ito Jansen Kumar Lopez Meyer Novak Okafor Petrov"
)
HOSTS = _words("mail.example.org example.com post.example.net uni.example.edu firma-nord.example")
MONTHS = _words("January February March April May June July August September October November December")

SENTENCES = {
    "email": [
        "You can reach me at {}.",
        "Please forward it to {} today",
        "My colleague ({}) has the file.",
        "mail: {}, thanks",
    ],
    "url": ["The form is at {}.", "See {} for the terms", "I found it on {} (page 3)."],
    "iban": ["Please pay to {} by Friday.", "My account is {}; the bank needs it", "IBAN {}"],
    "card": ["The card is {}, valid until next year.", "They charged {} twice", "Card number {}."],
    "ip": ["The camera answers at {}.", "Block {} in the firewall, please", "It came from {}, I think."],
    "date": ["I was born on {}.", "The operation was on {}, in the morning", "Since {} it hurts."],
    "phone": ["Call me on {}.", "The clinic's number is {}, ask for the nurse", "Text {} if you are late"],
    "number": ["My case number is {}.", "Passport {} expires soon", "Policy {}, please look it up."],
}
PLAIN = [
    "What should I do about a cough that lasts 3 weeks?",
    "Write 2 short paragraphs in plain English.",
    "The recipe takes 250 g of flour at 180 degrees for 45 minutes.",
    "We were 12 people and paid $49.90 each.",
    "Version 3.11 works, 3.9 does not.",
    "It started at 10:30 and ended at 11:45.",
    "Chapter 7, page 214, second paragraph.",
    "My daughter is 4 and my son is 11.",
    "In 1999 we moved to the coast.",
    "Give me three e.g. examples and/or a list.",
]


@dataclass(frozen=True, slots=True)
class Secret:
    """Characters start to end of a prompt. loose: not written in any format that a detector was made for."""

    start: int
    end: int
    kind: str
    loose: bool


@dataclass(frozen=True, slots=True)
class Planted:
    """A prompt and its secrets."""

    text: str
    secrets: tuple[Secret, ...]


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(count))


def _email(rng: random.Random) -> str:
    first, last = rng.choice(FIRST).lower(), rng.choice(LAST).lower()
    name = rng.choice([f"{first}.{last}", f"{first[0]}{last}", f"{first}_{_digits(rng, 2)}", f"{last}+{first}"])
    return f"{name}@{rng.choice(HOSTS)}"


def _url(rng: random.Random) -> str:
    path = rng.choice(
        ["", "/users/" + rng.choice(LAST).lower(), "/a?id=" + _digits(rng, 4), "/x/#" + rng.choice(FIRST)]
    )
    return rng.choice(["https://", "http://", "www."]) + rng.choice(HOSTS) + path


def _iban(rng: random.Random) -> str:
    country, length = rng.choice([("DE", 18), ("FR", 23), ("ES", 20), ("GB", 18)])
    account = ("ABCD" if country == "GB" else "") + _digits(rng, length - 4 * (country == "GB"))
    check = 98 - int("".join(str(int(c, 36)) for c in account + country + "00")) % 97
    whole = f"{country}{check:02d}{account}"
    return whole if rng.random() < 0.5 else " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))


def _card(rng: random.Random) -> str:
    body = rng.choice("45") + _digits(rng, 14)
    total = sum(int(d) * (2 - i % 2) - 9 * (int(d) * (2 - i % 2) > 9) for i, d in enumerate(body))
    whole = body + str(-total % 10)
    return rng.choice(["", " ", "-"]).join(whole[at : at + 4] for at in range(0, 16, 4))


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return "2001:db8:" + ":".join(f"{rng.randrange(1, 65536):x}" for _ in range(rng.randrange(1, 3))) + "::1"
    return ".".join(str(rng.randrange(1, 255)) for _ in range(4))


def _date(rng: random.Random) -> str:
    day, month, year = rng.randrange(1, 29), rng.randrange(1, 13), rng.randrange(1940, 2026)
    name = MONTHS[month - 1]
    shapes = [f"{year}-{month:02d}-{day:02d}", f"{day}.{month}.{year}", f"{month}/{day}/{year % 100:02d}"]
    return rng.choice(
        [*shapes, f"{day} {name} {year}", f"{name} {day}, {year}", f"{day}th of {name}", f"{name[:3]} {day}"]
    )


def _phone(rng: random.Random) -> str:
    shapes = ["+49 {3} {7}", "0{3}/{6}", "({3}) {3}-{4}", "{3}-{3}-{4}", "+44 20 {4} {4}", "0{4} {6}", "+1{10}"]
    parts = rng.choice(shapes).replace("}", "{").split("{")
    return "".join(part if at % 2 == 0 else _digits(rng, int(part)) for at, part in enumerate(parts))


def _number(rng: random.Random) -> str:
    letters = "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randrange(0, 3)))
    return letters + _digits(rng, rng.randrange(6, 11))


MAKE: dict[str, Callable[[random.Random], str]] = {
    **{"email": _email, "url": _url, "iban": _iban, "card": _card},
    **{"ip": _ip, "date": _date, "phone": _phone, "number": _number},
}


def _loose(rng: random.Random, kind: str, secret: str) -> str:
    """The secret as somebody writes it who follows no format."""
    if kind in ("email", "url"):
        return secret.replace("@", " at ").replace("https://", "").replace("http://", "").replace("www.", "")
    if kind == "date":
        return rng.choice([f"the {rng.randrange(2, 29)}th", f"{rng.choice(MONTHS)} of {rng.randrange(40, 99)}", "5/90"])
    half = len(secret) // 2
    return rng.choice([" ".join(secret.replace(" ", "")), f"{secret[:half]} and then {secret[half:]}"])


def planted(count: int, seed: int) -> list[Planted]:
    """Prompts of two to five sentences, one to three of them with a secret."""
    rng = random.Random(seed)
    prompts = []
    for _ in range(count):
        kinds: list[str | None] = [rng.choice(list(MAKE)) for _ in range(rng.randrange(1, 4))]
        kinds += [None] * rng.randrange(1, 3)
        rng.shuffle(kinds)
        text, secrets = "", []
        for kind in kinds:
            text += " " if text else ""
            if kind is None:
                text += rng.choice(PLAIN)
                continue
            before, _, after = rng.choice(SENTENCES[kind]).partition("{}")
            secret, loose = MAKE[kind](rng), rng.random() < LOOSE
            secret = _loose(rng, kind, secret) if loose else secret
            start = len(text) + len(before)
            secrets.append(Secret(start, start + len(secret), kind, loose))
            text += before + secret + after
        prompts.append(Planted(text, tuple(secrets)))
    return prompts


@dataclass(slots=True)
class Row:
    """One kind: secrets planted and found whole (as any kind), those in a format and the loose ones; ranges found."""

    planted: int = 0
    whole: int = 0
    loose: int = 0
    loose_whole: int = 0
    ranges: int = 0
    right: int = 0

    def __str__(self) -> str:
        return (
            f"{self.planted:7}  {self.whole / self.planted:6.3f}  {self.right / max(self.ranges, 1):9.3f}  "
            f"{self.loose:5}  {self.loose_whole / max(self.loose, 1):12.3f}"
        )


def detection(prompts: list[Planted]) -> dict[str, Row]:
    """The rows of all kinds; a range is right if it touches a secret."""
    kinds = {name: Kind(name) for name in BUILT_IN}
    detectors = detectors_for(kinds)
    rows = {kind: Row() for kind in MAKE}
    for prompt in prompts:
        found = settle((part for one in detectors for part in one.find(prompt.text)), kinds)
        hidden = {at for part in found for at in range(part.start, part.end)}
        for secret in prompt.secrets:
            row, whole = rows[secret.kind], hidden.issuperset(range(secret.start, secret.end))
            row.planted += not secret.loose
            row.whole += whole and not secret.loose
            row.loose += secret.loose
            row.loose_whole += whole and secret.loose
        for part in found:
            rows[part.kind].ranges += 1
            rows[part.kind].right += any(one.start < part.end and part.start < one.end for one in prompt.secrets)
    return rows


def read_whole(table: LatentTable, tokenizer: Tokenizer, kind: str, mu: float, prompts: list[Planted]) -> float:
    """The share of a kind's secrets, as they are formatted, that the attacker reads whole at n = 1."""
    rng = random.Random(SEED + 1)
    counts = np.full(table.spec.vocabulary, 1e-9)
    for _ in range(OTHERS):
        np.add.at(counts, tokenizer.encode(" " + MAKE[kind](rng), add_special_tokens=False).ids, 1)
    prior, setting = counts / counts.sum(), NoiseSetting.from_mu(mu, table.spec.dim, 1)
    hits = []
    for prompt in prompts:
        for secret in (one for one in prompt.secrets if one.kind == kind and not one.loose):
            ids = tokenizer.encode(" " + prompt.text[secret.start : secret.end], add_special_tokens=False).ids
            levels = encode(table, ids, setting).levels(table.spec.dim)
            hits.append(map_guess(table, levels, setting, prior)[0].tolist() == ids)
    return float(np.mean(hits))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted", description=__doc__)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    prompts = planted(arguments.prompts, arguments.seed)
    folder = codec_folders()[0]
    table, tokenizer = LatentTable.load(folder / DEVICE_FILE), Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    print("kind    planted  recall  precision  loose  loose recall  " + "  ".join(f"read at mu {mu:g}" for mu in MUS))
    for kind, row in detection(prompts).items():
        shares = "  ".join(f"{read_whole(table, tokenizer, kind, mu, prompts):>12.3f}" for mu in MUS)
        print(f"{kind:7} {row}  {shares}")


if __name__ == "__main__":
    main()
