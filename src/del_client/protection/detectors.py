"""The detectors that a policy's kinds ask for. Knows nothing of what they are used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from del_client.policy import Kind
from del_client.protection.found import Detector
from del_client.protection.patterns import BUILT_IN, Pattern
from del_client.protection.word_list import WordList


def detectors_for(kinds: Mapping[str, Kind]) -> list[Detector]:
    """Built in for kinds of these names (email, phone, ...), and each kind's own word lists, patterns and entities.

    Raises InvalidValue for a list or an expression that can't be used, ArtifactError where presidio is asked for and
    missing.
    """
    detectors: list[Detector] = []
    entities: dict[str, str] = {}
    for kind in kinds.values():
        detectors += BUILT_IN.get(kind.name, ())
        detectors += [Pattern.parse(kind.name, expression) for expression in kind.patterns]
        detectors += [WordList.load(kind.name, Path(path)) for path in kind.words]
        entities |= dict.fromkeys(kind.presidio, kind.name)
    if entities:
        from del_client.protection.presidio import PresidioDetector

        detectors.append(PresidioDetector(entities))
    return detectors
