"""Check digits of account and card numbers. Knows nothing of texts: it is given digits and letters alone."""

from __future__ import annotations


def luhn(digits: str) -> bool:
    """Whether decimal digits end in their Luhn check digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + index % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


def mod_97(account: str) -> bool:
    """Whether an account number of digits and ASCII letters is 1 modulo 97 (ISO 13616): an IBAN's check."""
    turned = account[4:] + account[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1
