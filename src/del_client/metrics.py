"""What the device's owner sees: Prometheus metrics of all answers of a client, for whatever serves them over HTTP.

Labels are bounded: never a user, a prompt or a text. Needs prometheus-client, which the base install lacks.
"""

from __future__ import annotations

from collections import Counter

from prometheus_client import CollectorRegistry

from del_client.answer import Answer
from del_client.prepared import Prepared
from del_codec.frame import PrivateSegment
from del_codec.meters import BITS, EMBEDDING_BYTES, EPSILON, EPSILON_DELTA, MU, Meters
from del_codec.noise import NoiseSetting
from del_codec.released import largest_mu, quick_epsilon, releases_of
from del_codec.table import LatentTable

OUTCOMES = ("stop", "length", "cancelled", "left", "failed", "refused")
TOKEN_KINDS = ("private", "public", "generated")


class DeviceMetrics:
    """Pass `answered` to a client as its `watch`; more metrics may share the registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        meters = Meters("del_client", registry)
        self.registry = meters.registry
        self._answers = meters.counters(
            "answers", "Answers that ended, by outcome; nothing was sent for a refused one.", "outcome", OUTCOMES
        )
        self._tokens = meters.counters("tokens", "Tokens of prompts sent and of answers received.", "kind", TOKEN_KINDS)
        self._payload_bytes = meters.counters(
            "sent_payload_bytes", "Packed latents of prompts sent, by bits a coordinate.", "bits", BITS[1:]
        )
        self._wire_bytes = meters.counter(
            "sent_wire_bytes", "Serialised messages of queries sent, each with gRPC's five-byte prefix."
        )
        self._embedding_bytes = meters.counters(
            "embedding_bytes",
            "What the private tokens sent would have taken as embeddings of that type.",
            "dtype",
            tuple(EMBEDDING_BYTES),
        )
        self._interruptions = meters.counter("interruptions", "Connections that were lost during answers that ended.")
        self._first_token = meters.histogram(
            "time_to_first_token_seconds", "From asking to the first token of an answer, by the device's clock."
        )
        self._seconds = meters.histogram("answer_seconds", "From asking to the end of an answer.")
        self._mu = meters.histogram("prompt_mu", "Nominal mu of the weakest noise in a private prompt.", MU)
        self._epsilon = meters.histogram(
            "prompt_epsilon",
            f"Epsilon of all private tokens of a prompt at delta {EPSILON_DELTA:g}, rounded up by some percent.",
            EPSILON,
        )

    def answered(self, answer: Answer, table: LatentTable) -> None:
        """Count an answer that nothing more will come of; table: that its prompt was encoded with."""
        self._answers[_outcome(answer)].inc()
        self._tokens["generated"].inc(len(answer.token_ids))
        self._wire_bytes.inc(answer.wire_bytes)
        if answer.started_sending:
            self._sent(answer.prepared, table)
        if answer.ended:
            self._interruptions.inc(answer.finish.interruptions)
            self._first_token.observe(answer.ttft_ms / 1000)
            self._seconds.observe(answer.total_ms / 1000)

    def _sent(self, prepared: Prepared, table: LatentTable) -> None:
        private = prepared.private_tokens
        self._tokens["private"].inc(private)
        self._tokens["public"].inc(prepared.prompt_tokens - private)
        if not private:
            return
        tokens = Counter[NoiseSetting]()
        for segment in prepared.segments:
            if isinstance(segment, PrivateSegment):
                tokens[segment.setting] += segment.tokens
                self._payload_bytes[BITS[segment.setting.bits]].inc(len(segment.payload))
        for dtype, size in EMBEDDING_BYTES.items():
            self._embedding_bytes[dtype].inc(private * table.spec.embedding_width * size)
        self._mu.observe(largest_mu(table, tokens))
        self._epsilon.observe(quick_epsilon(releases_of(table, tokens), EPSILON_DELTA))


def _outcome(answer: Answer) -> str:
    if answer.ended:
        return answer.finish.reason
    if not answer.failed:
        return "left"
    return "failed" if answer.started_sending else "refused"
