"""Licences of what the images install: all of it is listed, as it says itself, and nothing unlisted comes in."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from rendered import ROOT
from scripts import load

PAGE = (ROOT / "docs" / "dependencies.md").read_text()
IMAGES = ("device", "server")


dependencies, lock = load("deploy/dependencies.py"), load("deploy/docker/lock.py")


def listed(image: str) -> dict[tuple[str, str], str]:
    """Licences of the page by name and version."""
    table = PAGE.split(f"<!-- {image} -->")[1].split("<!-- end -->")[0]
    return {(name, version): licence for name, version, licence in dependencies.ROW.findall(table)}


@pytest.mark.parametrize("image", IMAGES)
def test_everything_locked_is_listed_and_nothing_else(image: str) -> None:
    table = PAGE.split(f"<!-- {image} -->")[1].split("<!-- end -->")[0]
    others = re.findall(r"([\w.-]+) ([\w.]+)(?=, |\.\n)", table.split("For other systems alone: ")[1])
    locked = {
        (canonicalize_name(one.name), str(one.specifier)[2:]): one
        for one in dependencies.locked(dependencies.LOCKS[image])
    }
    assert {*listed(image), *others} == set(locked)
    linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": "3.11.7"}
    assert not [name for name in others if (marker := locked[name].marker) is None or marker.evaluate(linux)]


@pytest.mark.parametrize("extra", ["gateway", "demo"])
def test_what_make_installs_is_pinned_the_indirect_too(extra: str) -> None:
    pinned = lock.pins(ROOT / "deploy" / "constraints-development.txt")
    brought = [line.partition("==")[0] for line in lock.installed(extra)]
    assert len(brought) > 10
    assert [name for name in brought if name not in pinned] == [], "run make pins"
    assert not set(pinned) & set(lock.pins(ROOT / "deploy" / "constraints.txt"))


@pytest.mark.parametrize("image", IMAGES)
def test_no_licence_enters_that_is_not_on_the_list(image: str) -> None:
    assert not {name: licence for name, licence in listed(image).items() if not dependencies.allowed(image, licence)}


@pytest.mark.parametrize("image", IMAGES)
def test_the_page_says_what_the_installed_distributions_say(image: str) -> None:
    looked_at = 0
    for (name, version), licence in listed(image).items():
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if metadata["Version"].split("+")[0] == version:
            said = {"license_expression": metadata.get("License-Expression"), "license": metadata.get("License")}
            classifiers = metadata.get_all("Classifier", [])
            assert dependencies.licence_of(name, {**said, "classifier": classifiers}) == licence, name
            looked_at += 1
    assert looked_at > len(listed(image)) // 3


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only"),
        ({"license": "GNU Affero General Public License"}, "unknown: GNU Affero General Public License"),
        ({"classifier": ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]}, "unknown: nothing said"),
        ({}, "unknown: nothing said"),
    ],
)
def test_other_licences_and_none_are_refused(metadata: dict[str, Any], licence: str) -> None:
    assert dependencies.licence_of("some-package", metadata) == licence
    assert not any(dependencies.allowed(image, licence) for image in IMAGES)


def test_nvidias_terms_come_to_servers_alone() -> None:
    assert dependencies.allowed("server", "LicenseRef-NVIDIA-Proprietary")
    assert not dependencies.allowed("device", "LicenseRef-NVIDIA-Proprietary")


@pytest.mark.parametrize(
    ("version", "versions", "newest"),
    [
        ("1.85.1", ["1.86.0", "1.85.3", "1.85.10rc1", "1.85.2"], "1.85.3"),
        ("2.13.0", ["2.14.0", "2.13.0+cpu"], "2.13.0"),
        ("12.0.4.66", ["12.0.5.1", "12.1.0"], "12.0.5.1"),
    ],
)
def test_the_latest_patch(version: str, versions: list[str], newest: str) -> None:
    assert dependencies.latest_patch(version, versions) == newest


class TestAdvisories:
    """pip-audit's answers are told as they are; no answer is no pass."""

    @pytest.fixture
    def answer(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        said = [""]

        def run(*_: object, **__: object) -> Any:
            return type("Done", (), {"stdout": said[0], "stderr": "no route to host", "returncode": 1})

        monkeypatch.setattr(dependencies.subprocess, "run", run)
        return said

    def test_what_is_known_is_told(self, answer: list[str]) -> None:
        known = {"id": "PYSEC-1", "fix_versions": ["3.1.6"]}
        answer[0] = json.dumps({"dependencies": [{"name": "jinja2", "version": "3.1.2", "vulns": [known]}]})
        assert dependencies.advisories(Path("x.lock")) == ["jinja2 3.1.2: PYSEC-1, mended in 3.1.6"]

    @pytest.mark.parametrize("said", ["", '{"dependencies": [{"name": "jinja2", "skip_reason": "not found"}]}'])
    def test_no_answer_is_no_pass(self, answer: list[str], said: str) -> None:
        answer[0] = said
        with pytest.raises(dependencies.Unanswered, match=r"no route|advisories of 1 of 1"):
            dependencies.advisories(Path("x.lock"))
