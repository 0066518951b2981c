"""What the README says is what the code does, where that can be checked."""

import ast
import re

from longrun.settings_text import as_markdown
from tests.servers import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_settings_table_is_that_of_the_settings() -> None:
    shown = README.split("<!-- settings -->\n")[1].split("<!-- /settings -->")[0]
    assert shown == as_markdown(), "run: make readme"


def test_python_blocks_parse() -> None:
    assert len(blocks("python")) >= 8
    for block in blocks("python"):
        ast.parse(block)


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
