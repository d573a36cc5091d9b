"""WordList: the words and phrases of a file, found whole and in any case. Knows nothing of policies or placeholders."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from del_client.protection.found import Found
from del_codec.errors import InvalidValue

MAX_LIST_BYTES = 16 << 20
_WORD = re.compile(r"\w+")


class WordList:
    """Phrases of one kind. A phrase is found where its words stand, whole, in order, whatever is between them.

    Finding takes time linear in the text. Raises InvalidValue for a phrase without a letter or digit.
    """

    def __init__(self, kind: str, phrases: Collection[str]) -> None:
        self.kind = kind
        self._longest = 0
        self._phrases: set[tuple[str, ...]] = set()
        for phrase in phrases:
            words = tuple(word.casefold() for word in _WORD.findall(phrase))
            if not words:
                raise InvalidValue(f"kinds.{kind}.words", phrase, "write one phrase of letters or digits on a line")
            self._phrases.add(words)
            self._longest = max(self._longest, len(words))
        self._firsts = {words[0] for words in self._phrases}

    def __len__(self) -> int:
        return len(self._phrases)

    @classmethod
    def load(cls, kind: str, path: Path) -> WordList:
        """One phrase on a line; empty lines and those that begin with # are left out. Raises InvalidValue."""
        field = f"kinds.{kind}.words"
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
            lines = [line.strip() for line in data.decode().splitlines()]
        except OSError as error:
            raise InvalidValue(field, str(path), f"it can't be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise InvalidValue(field, str(path), f"not UTF-8 at byte {error.start}: write it in UTF-8") from None
        if len(data) > MAX_LIST_BYTES:
            raise InvalidValue(field, str(path), f"a word list has at most {MAX_LIST_BYTES} bytes")
        return cls(kind, [line for line in lines if line and not line.startswith("#")])

    def find(self, text: str) -> Iterator[Found]:
        """Every place where a phrase stands; of those that begin at one word, the longest."""
        words = list(_WORD.finditer(text))
        folded = [word[0].casefold() for word in words]
        for index, word in enumerate(folded):
            if word not in self._firsts:
                continue
            for count in range(min(self._longest, len(words) - index), 0, -1):
                if tuple(folded[index : index + count]) in self._phrases:
                    yield Found(words[index].start(), words[index + count - 1].end(), self.kind)
                    break


def has_words(text: str) -> bool:
    """Whether a text has a letter or digit, so that it can be a phrase of a list."""
    return _WORD.search(text) is not None
