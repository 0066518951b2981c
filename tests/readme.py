"""`make readme`: writes the settings table into the README."""

from longrun.settings_text import as_markdown
from tests.servers import REPOSITORY


def main() -> None:
    path = REPOSITORY / "README.md"
    before, rest = path.read_text().split("<!-- settings -->\n")
    _, after = rest.split("<!-- /settings -->")
    path.write_text(f"{before}<!-- settings -->\n{as_markdown()}<!-- /settings -->{after}")


if __name__ == "__main__":
    main()
