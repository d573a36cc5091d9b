"""PresidioDetector: Microsoft's presidio-analyzer as a detector.

It is an optional extra (pip install 'del-inference[presidio]') and imported when it is asked for. Its language model
runs on the device and takes some hundreds of megabytes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from del_client.protection.found import Found
from del_codec.errors import ArtifactError, InvalidValue

LANGUAGE = "en"
LEAST_SCORE = 0.35


class PresidioDetector:
    """Finds Presidio's entities, each as the kind that `entities` (entity to kind) names for it.

    analyzer: an AnalyzerEngine of one's own; else the default one is made. least_score: from 0 to 1, what Presidio
    must give a finding for it to count. Raises ArtifactError where the library or its model is missing, InvalidValue
    for an entity that it does not know.
    """

    def __init__(self, entities: Mapping[str, str], *, analyzer: Any = None, least_score: float = LEAST_SCORE) -> None:
        self._entities = dict(entities)
        self._least_score = least_score
        self._analyzer = analyzer or _default_analyzer()
        known = self._analyzer.get_supported_entities(LANGUAGE)
        for entity, kind in entities.items():
            if entity not in known:
                raise InvalidValue(f"kinds.{kind}.presidio", entity, f"use one of {', '.join(sorted(known))}")

    def find(self, text: str) -> Iterator[Found]:
        """What the analyzer finds."""
        results = self._analyzer.analyze(
            text=text, language=LANGUAGE, entities=list(self._entities), score_threshold=self._least_score
        )
        for result in results:
            yield Found(result.start, result.end, self._entities[result.entity_type])


def _default_analyzer() -> Any:
    try:
        engine = importlib.import_module("presidio_analyzer").AnalyzerEngine
    except ImportError as error:
        raise ArtifactError(
            f"presidio-analyzer is not installed ({error}): pip install 'del-inference[presidio]', or leave presidio "
            "out of the policy"
        ) from None
    try:
        return engine()
    except (OSError, SystemExit, ValueError) as error:
        raise ArtifactError(
            f"presidio-analyzer can't load its language model ({error}): install it with spaCy"
        ) from None
