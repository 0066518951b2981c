"""The documents lead somewhere: links, anchors, citations in the code, paths, invariants."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import REPOSITORY

ENGINEERS = REPOSITORY / "src/longrun/README.md"
CONTRACT = REPOSITORY / "src/longrun/http/README.md"

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "src/**/*.md", "sql/*.md", "tests/*.md")
    for path in REPOSITORY.glob(pattern)
)

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CITATION = re.compile(r"\(contract,\s+\"([^\"]+)\"\)")
_INVARIANT = re.compile(r"\b[Ii]nvariants? (\d+)(?:(?:, | and )(\d+))*")
_NUMBERED_TEST = re.compile(r"\bdef (test_(\d+)_\w+)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|sql|md)|(?:[\w.-]+/)+)`")


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return _FENCE.sub("", document.read_text())


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def headings(document: Path) -> list[str]:
    found = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return [heading.strip() for heading in found]


def sources() -> Iterator[Path]:
    for folder in ("src", "sql", "tests"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in {".py", ".sql", ".js", ".css", ".html", ".md"}:
                yield path


def shown(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_all_of_the_documents_are_there() -> None:
    assert {shown(path) for path in DOCUMENTS} >= {
        "README.md",
        ".github/CONTRIBUTING.md",
        "src/longrun/README.md",
        "src/longrun/http/README.md",
        "src/longrun/execution/README.md",
        "sql/README.md",
        "tests/README.md",
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
def test_links_and_their_anchors_exist(document: Path) -> None:
    for link in _LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{shown(document)}: {link}"
        if anchor:
            anchors = {slug(heading) for heading in headings(target)}
            assert anchor in anchors, f"{shown(document)}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
def test_paths_that_are_named_exist(document: Path) -> None:
    near = (document.parent, REPOSITORY, REPOSITORY / "src/longrun", REPOSITORY / "tests")
    for path in _PATH.findall(prose(document)):
        if "NNNN" in path or path.startswith(("my_app", "openai/")):
            continue
        assert any((folder / path).exists() for folder in near), f"{shown(document)}: {path}"


def test_what_the_code_cites_of_the_contract_is_a_heading_of_it() -> None:
    there = set(headings(CONTRACT))
    cited = 0
    for path in sources():
        # A citation may be wrapped, within a comment too.
        text = re.sub(r"\s*\n\s*(?:#|--|//)?\s*", " ", path.read_text())
        for heading in _CITATION.findall(text):
            cited += 1
            assert heading in there, f"{shown(path)} cites the contract, {heading!r}"
    assert cited >= 5


def invariants() -> dict[int, str]:
    found = (re.fullmatch(r"Invariant (\d+): (.+)", heading) for heading in headings(ENGINEERS))
    return {int(match[1]): match[2] for match in found if match}


def test_invariants_are_numbered_and_those_that_are_named_exist() -> None:
    known = invariants()
    assert sorted(known) == list(range(1, len(known) + 1))
    for path in sources():
        for match in _INVARIANT.finditer(path.read_text()):
            for number in re.findall(r"\d+", match[0]):
                assert int(number) in known, f"{shown(path)}: {match[0]}"


def test_each_invariant_has_a_test_that_is_named_for_it() -> None:
    tests: dict[int, list[str]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for name, number in _NUMBERED_TEST.findall(path.read_text()):
            tests.setdefault(int(number), []).append(name)
    assert sorted(tests) == sorted(invariants())


def test_nothing_leads_to_documents_that_are_not_here() -> None:
    for path in sources():
        if path != Path(__file__):
            missing = re.findall(
                r"\b(?:design|contract|style|step-journal)\.md\b", path.read_text()
            )
            assert not missing, f"{shown(path)}: {missing}"
