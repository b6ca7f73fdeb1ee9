"""The package's page on an index is README.md, whose relative links lead to the repository there."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def with_absolute_links(text: str, repository: str) -> str:
    """A page of the repository's root whose relative links and pictures are absolute."""

    def absolute(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({repository}/{kind}/main/{found[3]})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^()\s]+)\)", absolute, text)


urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
readme = (ROOT / "README.md").read_text(encoding="utf-8")
setup(
    long_description=with_absolute_links(readme, urls["Repository"]) if "Repository" in urls else readme,
    long_description_content_type="text/markdown",
)
