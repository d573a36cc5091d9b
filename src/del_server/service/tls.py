"""TLS: gRPC's server credentials of a certificate, its key and, for mutual TLS, the authority of the clients'.

The files are read anew for the next connection after they change, so that certificates rotate without a restart.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from del_codec.errors import ArtifactError
from del_server.access.watched import Watched

# What comes of bytes that are not what they should be.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
_FORM = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class TlsFiles:
    """PEM files, followed as they change: the server's certificate, with those between it and its root behind it, and
    its key.

    client_ca: authorities whose certificates clients must have; None: clients need none. Raises ArtifactError for files
    that can't be used.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._asks_clients = client_ca is not None
        self._watched = Watched([certificate, key, *([client_ca] if client_ca else [])], _read)

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files."""

        def configuration() -> grpc.ServerCertificateConfiguration:
            return self._watched.get().configuration

        return grpc.dynamic_ssl_server_credentials(configuration(), configuration, self._asks_clients)

    def expires(self) -> float:
        """When the certificate that is shown now expires, in seconds since 1970."""
        return self._watched.get().expires


@dataclass(frozen=True, slots=True)
class _Content:
    configuration: grpc.ServerCertificateConfiguration
    expires: float


def _read(files: Sequence[bytes]) -> _Content:
    certificate, key, *authorities = files
    own = _certificates(certificate, "the server's certificate")[0]
    _check_pair(own, key)
    for authority in authorities:
        _certificates(authority, "the clients' authority")
    client_ca = authorities[0] if authorities else None
    return _Content(
        grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca),
        own.not_valid_after_utc.timestamp(),
    )


def _check_pair(own: x509.Certificate, key: bytes) -> None:
    """Raise ArtifactError unless the key is the certificate's, and the certificate holds now."""
    try:
        private = load_pem_private_key(key, None).public_key().public_bytes(*_FORM)
    except _UNREADABLE:
        raise ArtifactError("the server's key is no PEM file of a private key without a password") from None
    try:
        public = own.public_key().public_bytes(*_FORM)
    except _UNREADABLE:
        raise ArtifactError("the server's certificate has a public key that can't be read: make another") from None
    if private != public:
        raise ArtifactError("the server's key is not that of its certificate: name the pair that belongs together")
    now = datetime.datetime.now(datetime.UTC)
    if now >= own.not_valid_after_utc:
        raise ArtifactError(
            f"the server's certificate expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
        )


def _certificates(data: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except _UNREADABLE:
        raise ArtifactError(f"{what} is no PEM file of certificates") from None
