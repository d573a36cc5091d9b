"""TLS: what is not who it should be is not served, certificates rotate, and plain text stays on this machine."""

from __future__ import annotations

import asyncio
import base64
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from serving import Serving, StartServer

from benchmarks.certificates import DAY, Authority
from del_client.access import Access
from del_client.query import GenerationOptions, Query
from del_client.transport import Transport
from del_codec.errors import AccessDenied, ArtifactError, InvalidValue, UnavailableError
from del_codec.frame import PublicSegment
from del_server.access.token_file import change_tokens
from del_server.access.tokens import new_token
from del_server.config import ServeConfig
from del_server.engine.transformers import TransformersEngine
from del_server.service.tls import TlsFiles

OTHER_MACHINE = "192.0.2.7:50051"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def model_served(serving: Serving, access: Access) -> str:
    transport = Transport(f"127.0.0.1:{serving.port}", 5, access=access)
    try:
        return (await transport.server_info()).model
    finally:
        await transport.close()


Refused = Callable[[Serving, Access], Awaitable[str]]


@pytest.fixture
def refused() -> Refused:
    """Why a server was not reached; fails where it was."""

    async def reason(serving: Serving, access: Access) -> str:
        with pytest.raises(UnavailableError) as caught:
            await model_served(serving, access)
        return str(caught.value)

    return reason


class TestServersCertificate:
    async def test_one_of_the_right_authority_is_trusted(self, start_server: StartServer, authority: Authority) -> None:
        certificate, key = authority.issue("server")
        async with start_server(tls_cert=certificate, tls_key=key) as serving:
            assert await model_served(serving, Access(tls_ca=authority.path))

    async def test_others_are_not(
        self, start_server: StartServer, authority: Authority, refused: Refused, tmp_path: Path
    ) -> None:
        certificate, key = authority.issue("server", host="127.0.0.9")
        async with start_server(tls_cert=certificate, tls_key=key) as serving:
            other = Authority(tmp_path, "other")
            assert "CERTIFICATE_VERIFY_FAILED" in await refused(serving, Access(tls_ca=other.path))
            assert "--tls-name" in await refused(serving, Access(tls_ca=authority.path))
            assert await model_served(serving, Access(tls_ca=authority.path, tls_name="127.0.0.9"))

    async def test_plain_text_does_not_get_through(
        self, start_server: StartServer, authority: Authority, refused: Refused
    ) -> None:
        certificate, key = authority.issue("server")
        async with start_server(tls_cert=certificate, tls_key=key) as serving:
            assert "speaks TLS" in await refused(serving, Access())
        async with start_server() as serving:
            assert "may speak plain text" in await refused(serving, Access(tls_ca=authority.path))

    def test_one_that_expired_is_not_served(self, authority: Authority) -> None:
        with pytest.raises(ArtifactError, match="expired at"):
            TlsFiles(*authority.issue("server", lasts=-DAY)).credentials()

    async def test_one_that_expires_meanwhile_is_not_trusted(
        self, start_server: StartServer, authority: Authority, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate, key = authority.issue("server", lasts=-DAY)
        monkeypatch.setattr("del_server.service.tls._check_pair", lambda certificate, key: None)
        async with start_server(tls_cert=certificate, tls_key=key) as serving:
            assert "certificate has expired" in await refused(serving, Access(tls_ca=authority.path))


def expiry(certificate: Path) -> float:
    """Seconds since 1970."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()


class TestRotation:
    def presented(self, serving: Serving) -> str:
        """The name on the certificate that the server shows now."""
        pem = ssl.get_server_certificate(("127.0.0.1", serving.port))
        return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()

    async def test_a_new_certificate_is_shown_without_a_restart(
        self, start_server: StartServer, authority: Authority
    ) -> None:
        certificate, key = authority.issue("first", file="server")
        async with start_server(tls_cert=certificate, tls_key=key) as serving:
            assert self.presented(serving) == "CN=first"
            assert serving.sample("certificate_expires_timestamp_seconds") == expiry(certificate)
            authority.issue("second", file="server", lasts=3 * DAY)
            assert self.presented(serving) == "CN=second"
            assert (
                serving.sample("certificate_expires_timestamp_seconds")
                == expiry(certificate)
                > time.time() + 2 * 86_400
            )
            expires = expiry(certificate)
            authority.issue("third", file="server", lasts=-DAY)
            assert serving.sample("certificate_expires_timestamp_seconds") == expires
            assert await model_served(serving, Access(tls_ca=authority.path))

    async def test_half_a_rotation_leaves_the_former_in_place(
        self, start_server: StartServer, authority: Authority
    ) -> None:
        certificate, key = authority.issue("first", file="server")
        async with start_server(tls_cert=certificate, tls_key=key) as serving:
            next_certificate, next_key = authority.issue("second", file="next")
            certificate.write_bytes(next_certificate.read_bytes())
            assert self.presented(serving) == "CN=first"
            key.unlink()
            assert self.presented(serving) == "CN=first"
            key.write_bytes(next_key.read_bytes())
            assert self.presented(serving) == "CN=second"

    async def test_under_load_no_query_fails_and_no_connection(
        self, start_server: StartServer, authority: Authority, tmp_path: Path
    ) -> None:
        """Files written one after the other, each in two pieces, while devices connect and ask."""
        over, answered = asyncio.Event(), 0
        certificate, key = authority.issue("first", file="server")

        async def ask(transport: Transport) -> None:
            nonlocal answered
            limits = (await transport.server_info()).limits
            query = Query("", (PublicSegment((5,)),), GenerationOptions(max_new_tokens=2))
            assert [event async for event in transport.generate(query, limits)]
            answered += 1

        async def talk(address: str, stays: bool) -> None:
            transport = Transport(address, 30, access=Access(authority.path))
            while not over.is_set():
                await ask(transport)
                if not stays:
                    await transport.close()
                    transport = Transport(address, 30, access=Access(authority.path))
            await transport.close()

        async with start_server(tls_cert=certificate, tls_key=key) as serving, asyncio.TaskGroup() as talkers:
            for stays in (True, False, False):
                talkers.create_task(talk(f"127.0.0.1:{serving.port}", stays))
            for number in range(8):
                renewed = authority.issue(f"renewed-{number}", file="next")
                for old, new in zip((certificate, key), renewed, strict=True):
                    content = new.read_bytes()
                    with old.open("wb", buffering=0) as file:
                        for piece in (content[:300], content[300:]):
                            file.write(piece)
                            seen = answered
                            while answered < seen + 4:
                                await asyncio.sleep(0.001)
                assert self.presented(serving) == f"CN=renewed-{number}"
            over.set()


class TestClientsCertificate:
    async def test_who_has_one_is_served_and_nobody_else(
        self, start_server: StartServer, authority: Authority, refused: Refused, tmp_path: Path
    ) -> None:
        certificate, key = authority.issue("server")
        devices = Authority(tmp_path, "devices")
        async with start_server(tls_cert=certificate, tls_key=key, tls_client_ca=devices.path) as serving:

            def access(own: tuple[Path, Path] | None) -> Access:
                return Access(authority.path, *(own or ()))

            assert await model_served(serving, access(devices.issue("device")))
            assert "--tls-cert" in await refused(serving, access(None))
            await refused(serving, access(authority.issue("device-of-another-authority")))
            await refused(serving, access(devices.issue("device-of-yesterday", lasts=-DAY)))
            assert await model_served(serving, access(devices.issue("another-device")))

    async def test_its_subject_is_the_caller(
        self, start_server: StartServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate, key = authority.issue("server")
        callers = []
        really = TransformersEngine.submit

        def submit(engine: TransformersEngine, *arguments: Any) -> Any:
            callers.append(arguments[-1])
            return really(engine, *arguments)

        monkeypatch.setattr(TransformersEngine, "submit", submit)
        async with start_server(tls_cert=certificate, tls_key=key, tls_client_ca=authority.path) as serving:
            for name in ("device-7", "device-8"):
                own = authority.issue(name)
                transport = Transport(f"127.0.0.1:{serving.port}", 5, access=Access(authority.path, *own))
                limits = (await transport.server_info()).limits
                query = Query("", (PublicSegment((5,)),), GenerationOptions(max_new_tokens=2))
                assert [event async for event in transport.generate(query, limits)]
                await transport.close()
        assert callers == ["CN=device-7", "CN=device-8"]

    async def test_with_tokens_both_are_required(
        self, start_server: StartServer, authority: Authority, refused: Refused, tmp_path: Path
    ) -> None:
        certificate, key = authority.issue("server")
        own, file = authority.issue("device"), tmp_path / "tokens.json"
        token, entry = new_token("ada", "default", 1)
        change_tokens(file, lambda before: (entry,))
        both = {"tls_cert": certificate, "tls_key": key, "tls_client_ca": authority.path, "tokens": file}
        async with start_server(**both) as serving:
            assert await model_served(serving, Access(authority.path, *own, token=token))
            assert "--tls-cert" in await refused(serving, Access(authority.path, token=token))
            for wrong in (None, token[:-1]):
                with pytest.raises(AccessDenied, match="show a token"):
                    await model_served(serving, Access(authority.path, *own, token=wrong))

    async def test_an_authority_that_is_replaced_is_trusted_no_longer(
        self, start_server: StartServer, authority: Authority, refused: Refused, tmp_path: Path
    ) -> None:
        certificate, key = authority.issue("server")
        former = Authority(tmp_path, "devices")
        device = former.issue("device")
        async with start_server(tls_cert=certificate, tls_key=key, tls_client_ca=former.path) as serving:
            assert await model_served(serving, Access(authority.path, *device))
            Authority(tmp_path, "devices")
            await refused(serving, Access(authority.path, *device))


class TestFiles:
    def test_a_key_of_another_certificate(self, authority: Authority) -> None:
        certificate, _ = authority.issue("one")
        _, key = authority.issue("two")
        with pytest.raises(ArtifactError, match="not that of its certificate"):
            TlsFiles(certificate, key).credentials()

    @pytest.mark.parametrize("damaged", range(3))
    def test_damage(self, authority: Authority, damaged: int) -> None:
        certificate, key = authority.issue("server")
        (certificate, key, authority.path)[damaged].write_bytes(b"-----BEGIN NOTHING-----\n")
        with pytest.raises(ArtifactError, match="no PEM file"):
            TlsFiles(certificate, key, authority.path).credentials()

    @pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
    @pytest.mark.parametrize("damaged", range(3))
    def test_bytes_that_changed_are_an_error_of_ours_or_none(self, authority: Authority, damaged: int) -> None:
        certificate, key = authority.issue("server")
        path, draw = (certificate, key, authority.path)[damaged], random.Random(damaged)
        first, *lines, last = path.read_text().splitlines()
        whole, refused = base64.b64decode("".join(lines)), 0
        for _ in range(400):
            content = bytearray(whole)
            for _ in range(draw.choice((1, 3))):
                content[draw.randrange(len(content))] = draw.randrange(256)
            path.write_text("\n".join((first, base64.b64encode(content).decode(), last)))
            try:
                TlsFiles(certificate, key, authority.path)
            except ArtifactError:
                refused += 1
        assert refused

    def test_a_missing_one(self, authority: Authority, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"nowhere.*No such file"):
            TlsFiles(authority.issue("server")[0], tmp_path / "nowhere").credentials()


class TestPlainText:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gpu.example"])
    def test_a_server_speaks_it_to_other_machines_only_when_told_to(self, host: str) -> None:
        with pytest.raises(InvalidValue, match=r"host is .*--insecure"):
            ServeConfig(host=host)
        assert ServeConfig(host=host, insecure=True).insecure

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_this_machine_may_have_it(self, host: str) -> None:
        assert not ServeConfig(host=host).insecure
        assert not Access().uses_tls(f"[{host}]:1" if ":" in host else f"{host}:1")

    @pytest.mark.parametrize("server", [OTHER_MACHINE, "gpu.example:1", "[2001:db8::1]:1", "127.0.0.1.example:1"])
    def test_a_client_reaches_other_machines_by_tls_unless_told_otherwise(self, server: str) -> None:
        assert Access().uses_tls(server)
        assert not Access(insecure=True).uses_tls(server)

    def test_one_server_elsewhere_among_several(self) -> None:
        assert Access().uses_tls(f"127.0.0.1:50051,{OTHER_MACHINE}")

    def test_a_token_never_goes_in_it_to_another_machine(self) -> None:
        access = Access(token="del-secret", insecure=True)
        assert not access.uses_tls("127.0.0.1:1")
        with pytest.raises(InvalidValue, match="insecure is True: leave it out: the token"):
            Transport(OTHER_MACHINE, 5, access=access)


class TestContradictions:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"tls_cert": Path("c")}, "tls-key"),
            ({"tls_key": Path("k")}, "tls-cert"),
            ({"tls_client_ca": Path("a")}, "tls-client-ca"),
            ({"metrics_host": "127.0.0.2"}, "metrics-host"),
            ({"metrics_port": 50051}, "metrics-port"),
            ({"kv_tokens": -1}, "kv-tokens"),
            ({"kv_tokens": 1, "kv_bytes": 1}, "kv-bytes"),
            ({"compile": True, "device": "cpu"}, "compile"),
            ({"compile": True, "engine": "vllm"}, "compile"),
            ({"tls_cert": Path("c"), "tls_key": Path("k"), "insecure": True}, "insecure"),
        ],
    )
    def test_of_a_servers_options(self, options: dict[str, object], named: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{named} is"):
            ServeConfig(**options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"tls_cert": Path("c")}, "tls-key"),
            ({"tls_key": Path("k")}, "tls-cert"),
            ({"tls_name": "x", "insecure": True}, "insecure"),
            ({"token": "two words"}, "token"),
            ({"token": "x" * 513}, "token"),
        ],
    )
    def test_of_a_clients(self, options: dict[str, object], named: str) -> None:
        with pytest.raises(InvalidValue, match=f"^{named} is") as caught:
            Access(**options)  # type: ignore[arg-type]
        assert "two words" not in str(caught.value)
