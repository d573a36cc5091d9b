"""`del-client certify`: the exact certificate of a setting, without any server, codec or prompt."""

from __future__ import annotations

import argparse
import json
import sys

from del_codec.accounting import Certificate, Release, certify
from del_codec.caps import cap_uniform
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.release import MAX_DRAWS
from del_codec.spec import MAX_DIM, MAX_VOCABULARY


def run(arguments: argparse.Namespace) -> int:
    """Print the certificate; 0."""
    _check("dim", arguments.dim, MAX_DIM)
    _check("vocabulary", arguments.vocabulary, MAX_VOCABULARY)
    setting = NoiseSetting.from_mu(arguments.mu, arguments.dim, arguments.bits)
    token = Release(arguments.dim * setting.levels, setting.threshold_max())
    _check("tokens", arguments.tokens, MAX_DRAWS // token.n_draws)
    release = Release(token.n_draws * arguments.tokens, token.threshold_max)
    unit = "token" if arguments.tokens == 1 else "prompt"
    certificate = certify([release], unit=unit, tokens=arguments.tokens, delta=arguments.delta)
    cap = cap_uniform(token, arguments.vocabulary)
    sys.stdout.write(_json(certificate, cap) if arguments.json else _text(certificate, cap, arguments.vocabulary))
    return 0


def _json(certificate: Certificate, cap: float) -> str:
    figures = {
        "epsilon": certificate.epsilon,
        "delta": certificate.delta,
        "pure_epsilon": certificate.pure_epsilon,
        "rho": certificate.rho,
        "cap_uniform": cap,
        "n_draws": certificate.n_draws,
        "p_plus": certificate.p_plus,
    }
    return json.dumps(figures) + "\n"


def _text(certificate: Certificate, cap: float, vocabulary: int) -> str:
    tokens = "1 token" if certificate.tokens == 1 else f"{certificate.tokens} tokens together"
    return (
        f"unit          {certificate.unit}: {tokens}\n"
        f"epsilon       {certificate.epsilon:.6g} at delta {certificate.delta:g}\n"
        f"pure epsilon  {certificate.pure_epsilon:.6g}\n"
        f"rho (zCDP)    {certificate.rho:.6g}\n"
        f"cap           {cap:.4%}: no attack names one token, of {vocabulary} equally likely ones, more often from "
        "its own bits (context-free)\n"
        f"draws         {certificate.n_draws}, each with a probability of at most {certificate.p_plus:.9f}\n"
        f"adversary     {certificate.adversary}\n"
        f"adjacency     {certificate.adjacency}\n"
    )


def _check(field: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InvalidValue(field, value, f"use a whole number from 1 to {most}")
