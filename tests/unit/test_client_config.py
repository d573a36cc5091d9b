"""Where the command line's settings come from, and the script that completes its arguments."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from del_client.cli import main
from del_client.commands.completion import script
from del_client.config import SETTINGS, Config, config_file
from del_codec.errors import InvalidValue


def in_file(folder: Path, text: str) -> dict[str, str]:
    """The environment whose file of settings has this text."""
    file = folder / "client.toml"
    file.write_text(text)
    return {"DEL_CONFIG": str(file)}


class TestOrder:
    def test_flags_before_environment_before_file_before_defaults(self, tmp_path: Path) -> None:
        environment = in_file(tmp_path, 'mu = 3\nbits = 4\nserver = "file:1"\n') | {"DEL_MU": "5", "DEL_BITS": "2"}
        config = Config.load({"mu": 7.5, "bits": None, "command": "ask"}, environment)
        assert (config.values["mu"], config.sources["mu"]) == (7.5, "flag")
        assert (config.values["bits"], config.sources["bits"]) == (2, "DEL_BITS")
        assert (config.values["server"], config.sources["server"]) == ("file:1", environment["DEL_CONFIG"])
        assert (config.values["top_p"], config.sources["top_p"]) == (1.0, "default")

    def test_an_empty_variable_is_none(self, tmp_path: Path) -> None:
        config = Config.load({}, {"DEL_MU": "", "XDG_CONFIG_HOME": str(tmp_path)})
        assert config.sources["mu"] == "default"

    def test_the_file_lies_in_the_users_folder_of_settings(self, tmp_path: Path) -> None:
        assert config_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/del/client.toml")
        assert config_file({}) == Path("~/.config/del/client.toml").expanduser()
        assert config_file({"DEL_CONFIG": "~/a.toml", "XDG_CONFIG_HOME": "/x"}) == Path("~/a.toml").expanduser()

    def test_paths_in_a_file_start_at_its_folder(self, tmp_path: Path) -> None:
        values = Config.load({}, in_file(tmp_path, 'tokenizer = "t.json"\nchat_template = "~/c.jinja"\n')).values
        assert values["tokenizer"] == tmp_path / "t.json"
        assert values["chat_template"] == Path("~/c.jinja").expanduser()

    def test_every_setting_reads_what_it_shows(self) -> None:
        for setting in SETTINGS:
            if setting.default is not None:
                assert setting.parse(setting.shown(setting.default)) == setting.default


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("mu = 'x'", "mu in .*client.toml is 'x': use M: noise"),
            ("bits = 1.5", "bits in .* is 1.5: use N"),
            ("bits = true", "bits in .* is True: use N"),
            ("server = 5", "server in .* is 5: use HOST:PORT"),
            ("tokenizer = 5", "tokenizer in .* is 5: use FILE"),
            ("colour = 'red'", "colour in .* no such setting; there are server, "),
            ("mu", "not TOML"),
        ],
    )
    def test_in_a_file(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(InvalidValue, match=message):
            Config.load({}, in_file(tmp_path, text))

    def test_in_the_environment(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="DEL_BITS is 'many': use N: bits a coordinate"):
            Config.load({}, {"DEL_BITS": "many", "XDG_CONFIG_HOME": str(tmp_path)})

    def test_a_file_that_is_named_must_be_there_and_be_one(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidValue, match="there is no such file"):
            Config.load({}, {"DEL_CONFIG": str(tmp_path / "nowhere")})
        with pytest.raises(InvalidValue, match="can't be read"):
            Config.load({}, {"DEL_CONFIG": str(tmp_path)})
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        with pytest.raises(InvalidValue, match="not TOML"):
            Config.load({}, {"DEL_CONFIG": str(tmp_path / "binary")})
        (tmp_path / "large").write_bytes(b"#" * (1 << 17))
        with pytest.raises(InvalidValue, match="at most 65536 bytes"):
            Config.load({}, {"DEL_CONFIG": str(tmp_path / "large")})


class TestShown:
    def test_config_says_what_holds_and_why(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        for name, value in (in_file(tmp_path, "top_p = 0.5\n") | {"DEL_MU": "5"}).items():
            monkeypatch.setenv(name, value)
        assert main(["config", "--bits", "2"]) == 0
        rows = {tuple(line.split(maxsplit=1)[0:1]): line.split() for line in capsys.readouterr().out.splitlines()[2:]}
        assert rows[("bits",)] == ["bits", "2", "flag"]
        assert rows[("mu",)] == ["mu", "5.0", "DEL_MU"]
        assert rows[("top_p",)] == ["top_p", "0.5", str(tmp_path / "client.toml")]
        assert rows[("system",)] == ["system", "none", "default"]
        assert len(rows) == len(SETTINGS)


def completed(words: list[str]) -> list[str]:
    """What bash offers for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"{script('bash')}\nCOMP_WORDS=({line}) COMP_CWORD={len(words) - 1}\n_del_client\necho ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
class TestCompletion:
    def test_commands_flags_and_words(self) -> None:
        assert completed(["del-client", "in"]) == ["inspect"]
        assert "--temperature" in completed(["del-client", "ask", "--te"])
        assert completed(["del-client", "certify", "--t"]) == ["--tokens"]
        assert {"bash", "zsh"} <= set(completed(["del-client", "completion", ""]))

    def test_files_where_a_file_is_asked_for_and_nothing_for_other_values(self, tmp_path: Path) -> None:
        (tmp_path / "tokens.json").touch()
        assert completed(["del-client", "ask", "--tokenizer", f"{tmp_path}/t"]) == [f"{tmp_path}/tokens.json"]
        assert completed(["del-client", "ask", "--mu", ""]) == []

    @pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
    def test_zsh_takes_the_script(self) -> None:
        done = subprocess.run(["zsh", "-fc", script("zsh")], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
