"""Tokens: what is kept gives nothing away, and only the very token is let in."""

from __future__ import annotations

import hmac
import json
import multiprocessing
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from del_codec.errors import AccessDenied, ArtifactError, InvalidValue
from del_server.access import tokens as module
from del_server.access.caller import Caller, Door, Shown
from del_server.access.token_file import change_tokens, read_tokens
from del_server.access.tokens import Tokens, new_token
from del_server.access.watched import Watched
from del_server.cli import main


def door(path: Path) -> Door:
    return Door(Watched([path], Tokens.read))


def add(path: Path, name: str, days: float = 1) -> str:
    text, token = new_token(name, "default", days)
    change_tokens(path, lambda before: (*before, token))
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


class TestCheck:
    def test_the_right_one(self, path: Path) -> None:
        token = add(path, "ada")
        caller = door(path).admit(Shown("192.0.2.1", encrypted=True, token=token))
        assert (caller.name, caller.quota) == ("ada", "default")

    def test_wrong_ones(self, path: Path) -> None:
        ada, bob = add(path, "ada"), add(path, "bob")
        watched = door(path)
        secret = ada[22:]
        swapped = secret[::-1]
        wrong = [
            "",
            "del-",
            ada[:-1],
            ada[1:],
            ada + "A",
            ada.upper(),
            ada[:22] + swapped,
            ada[:22] + bob[22:],
            f" {ada}",
        ]
        for text in [*wrong, bob[:22] + secret, "del-" + "0" * 16 + "-" + secret, ada[:21], ada + "\n", "é" * 64]:
            with pytest.raises(AccessDenied, match="show a token"):
                watched.admit(Shown("", encrypted=False, token=text))

    def test_the_secrets_are_compared_in_constant_time_whether_the_id_is_there_or_not(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = add(path, "ada")
        compared, really = [], hmac.compare_digest

        def compare(one: str, other: str) -> bool:
            compared.append((len(one), len(other)))
            return really(one, other)

        monkeypatch.setattr(module.hmac, "compare_digest", compare)
        for text in (ada, ada[:22] + "A" * 43, "del-" + "0" * 16 + "-" + "A" * 43, "nothing"):
            try:
                door(path).admit(Shown("", encrypted=False, token=text))
            except AccessDenied:
                continue
        assert compared == [(64, 64)] * 4

    def test_an_expired_one(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        token = add(path, "ada", days=1)
        watched = door(path)
        caller = watched.admit(Shown("", encrypted=False, token=token))
        now = module.time.time()
        monkeypatch.setattr(module.time, "time", lambda: now + 86_401)
        with pytest.raises(AccessDenied, match="has expired"):
            watched.admit(Shown("", encrypted=False, token=token))
        with pytest.raises(AccessDenied, match="has expired"):
            watched.check(caller)

    def test_one_that_was_shown_to_all(self, path: Path) -> None:
        token = add(path, "ada")
        with pytest.raises(AccessDenied, match="in plain text"):
            door(path).admit(Shown("192.0.2.1", encrypted=False, token=token))
        assert door(path).admit(Shown("", encrypted=False, token=token)).name == "ada"

    def test_without_tokens_a_caller_is_a_certificate_or_a_host(self) -> None:
        anyone = Door(None)
        assert anyone.admit(Shown("192.0.2.1", encrypted=True, subject="CN=ada")) == Caller("CN=ada")
        assert anyone.admit(Shown("192.0.2.1", encrypted=True)) == Caller("192.0.2.1")
        assert anyone.admit(Shown("", encrypted=False)) == Caller("this machine")

    def test_the_addresses_of_one_machine_are_one_caller(self) -> None:
        anyone = Door(None)
        for host in ("2001:db8:1:2::3", "2001:db8:1:2:ffff::", "2001:db8:1:2::3%eth0"):
            assert anyone.admit(Shown(host, encrypted=True)) == Caller("2001:db8:1:2::/64")
        assert anyone.admit(Shown("2001:db8:1:3::3", encrypted=True)) == Caller("2001:db8:1:3::/64")


class TestFile:
    def test_it_holds_no_secret_and_is_its_owners_alone(self, path: Path) -> None:
        token = add(path, "ada")
        assert token[22:] not in path.read_text()
        assert [stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()] == [0o600, 0o600]
        assert token not in repr(Shown("", encrypted=False, token=token))

    def test_a_running_server_follows_it(self, path: Path) -> None:
        ada = add(path, "ada")
        watched = door(path)
        caller = watched.admit(Shown("", encrypted=False, token=ada))
        bob = add(path, "bob")
        assert watched.admit(Shown("", encrypted=False, token=bob)).name == "bob"
        main(["token", "revoke", "ada", "--file", str(path)])
        with pytest.raises(AccessDenied):
            watched.admit(Shown("", encrypted=False, token=ada))
        with pytest.raises(AccessDenied, match="withdrawn"):
            watched.check(caller)

    def test_one_that_can_not_be_read_is_read_once_its_mode_is_mended(self, path: Path) -> None:
        may = True

        def make(files: Sequence[bytes]) -> bytes:
            if not may:
                raise ArtifactError("Permission denied")
            return files[0]

        path.write_bytes(b"former")
        watched = Watched([path], make)
        path.write_bytes(b"latter")
        may = False
        assert watched.get() == b"former"
        may, before = True, path.stat()
        while path.stat().st_ctime_ns == before.st_ctime_ns:
            path.chmod(0o640)
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert watched.get() == b"latter"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_one_that_root_changes_stays_the_servers(self, path: Path) -> None:
        add(path, "ada")
        os.chown(path, 10001, 10002)
        path.chmod(0o640)
        add(path, "bob")
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (10001, 10002, 0o640)

    def test_a_link_to_it_stays_one(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(path)
        add(link, "ada")
        add(link, "bob")
        assert link.is_symlink()
        assert [token.name for token in read_tokens(path).all] == ["ada", "bob"]

    def test_what_is_no_such_file_leaves_the_former_tokens_in_place(self, path: Path) -> None:
        ada = add(path, "ada")
        watched = door(path)
        path.write_text("{")
        assert watched.admit(Shown("", encrypted=False, token=ada)).name == "ada"
        path.unlink()
        assert watched.admit(Shown("", encrypted=False, token=ada)).name == "ada"

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", '{"tokens": 1}', '{"tokens": [{}]}', '{"tokens": [{"id": 1}]}', "[" * 100_000, "\x00\xff"],
    )
    def test_damage(self, path: Path, text: str) -> None:
        path.write_text(text)
        with pytest.raises(ArtifactError):
            read_tokens(path)
        with pytest.raises(ArtifactError):
            add(path, "ada")
        assert path.read_text() == text

    def test_entries_that_cannot_be(self, path: Path) -> None:
        add(path, "ada")
        (entry,) = json.loads(path.read_text())["tokens"]
        for change in ({"name": "a b"}, {"quota": ""}, {"sha256": "0"}, {"id": "x"}, {"expires": -1}, {"more": 1}):
            path.write_text(json.dumps({"tokens": [{**entry, **change}]}))
            with pytest.raises(ArtifactError):
                read_tokens(path)

    def test_two_tokens_of_one_caller_have_one_quota(self) -> None:
        tokens = [new_token("ada", quota, 1)[1] for quota in ("default", "batch")]
        with pytest.raises(InvalidValue, match="quota is 'batch'"):
            Tokens(tokens)

    def test_processes_that_write_at_once_lose_nothing(self, path: Path) -> None:
        spawn = multiprocessing.get_context("fork")
        writers = [spawn.Process(target=add, args=(path, f"caller-{number}")) for number in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert {token.name for token in read_tokens(path).all} == {f"caller-{number}" for number in range(8)}


class TestCommand:
    def test_new_list_revoke(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["token", "new", "ada", "--file", str(path), "--days", "2"]) == 0
        token = capsys.readouterr().out.strip()
        assert door(path).admit(Shown("", encrypted=False, token=token)).name == "ada"
        assert main(["token", "new", "bob", "--file", str(path), "--days", "0"]) == 0
        capsys.readouterr()
        assert main(["token", "list", "--file", str(path)]) == 0
        listed = capsys.readouterr().out
        assert "ada  until 2" in listed
        assert "bob  for ever" in listed
        assert main(["token", "revoke", token[4:20], "--file", str(path)]) == 0
        assert [entry.name for entry in read_tokens(path).all] == ["bob"]

    @pytest.mark.parametrize(
        "arguments",
        [["new", "a b"], ["new", "ada", "--days", "-1"], ["new", "ada", "--days", "nan"], ["revoke", "eve"]],
    )
    def test_what_cannot_be(self, path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        add(path, "bob")
        before = path.read_bytes()
        assert main(["token", *arguments, "--file", str(path)]) == 2
        assert path.read_bytes() == before
