"""What the README and its guides say is what the code does, where that can be checked."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.readme import TABLES, table_in
from tests.servers import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
DEPLOYING = (REPOSITORY / "src/longrun/deploy/README.md").read_text()

GUIDES = sorted(REPOSITORY.glob("src/**/README.md"))


def blocks(language: str, document: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("path", "name", "made"), TABLES, ids=[name for _, name, _ in TABLES])
def test_a_table_is_what_the_code_says(path: Path, name: str, made: Callable[[], str]) -> None:
    assert table_in(path, name) == made(), "run: make readme"


def test_python_blocks_parse() -> None:
    assert len(blocks("python")) >= 8
    for document in (README, *(path.read_text() for path in GUIDES)):
        for block in blocks("python", document):
            ast.parse(block)


def test_the_readme_stays_short() -> None:
    """What few readers need is in a document beside its code."""
    assert README.count("\n") <= 600


def test_each_way_of_asking_has_its_example() -> None:
    for way in (
        "**Foreground.**",
        "**Foreground, streamed.**",
        "**Background, polled.**",
        "**Background, streamed, resumed.**",
        "**Background, streamed, polled too.**",
    ):
        section = README.split(way)[1].split("\n**")[0]
        assert "```python" in section, way
        assert "curl" in section, way
