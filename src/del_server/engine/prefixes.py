"""Caches of known beginnings of prompts: computed once, copied for each prompt that begins so.

Knows nothing of soft prompts, jobs or queues.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from del_server.engine.base import Prefix
from del_server.engine.job import forward


class Prefixes:
    """At most `tokens` of them together; those that were not used for longest go first."""

    def __init__(self, tokens: int, chunk: int) -> None:
        self._most, self._chunk = tokens, chunk
        # By identity: a handle stands for its content, and two adapters make two caches of it.
        self._held: OrderedDict[tuple[Prefix, str | None], DynamicCache] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Of those that are held."""
        return sum(len(prefix.embeddings) for prefix, _ in self._held)

    def begin(self, model: Any, prefix: Prefix | None, adapter: str | None) -> DynamicCache:
        """A cache of one's own, with the prefix in it. The model has the adapter in use."""
        shared = self.cache(model, prefix, adapter)
        return DynamicCache(config=model.config) if shared is None else fork(shared)

    def cache(self, model: Any, prefix: Prefix | None, adapter: str | None) -> DynamicCache | None:
        """The prefix's cache, to be copied and left as it is. The model has the adapter in use."""
        if prefix is None:
            return None
        key = (prefix, adapter)
        if key not in self._held:
            self._held[key] = self._computed(model, prefix)
        self._held.move_to_end(key)
        cache = self._held[key]
        while self.tokens > self._most:
            self._held.popitem(last=False)
        return cache

    def _computed(self, model: Any, prefix: Prefix) -> DynamicCache:
        cache = DynamicCache(config=model.config)
        for part in torch.split(prefix.embeddings, self._chunk):
            forward(model, cache, inputs_embeds=part.unsqueeze(0))
        return cache


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache that goes on from this one and leaves it as it is."""
    forked = copy.copy(cache)
    # A plain layer never writes into the tensors that it has: it makes new ones.
    forked.layers = [(copy.copy if type(layer) is DynamicLayer else copy.deepcopy)(layer) for layer in cache.layers]
    return forked
