"""Parts of a report, in Markdown."""

import dataclasses
import re
import urllib.parse
from pathlib import Path

from overfill_jax.errors import InputError

IMAGE = re.compile(r"!\[((?:\\.|[^\]\\])*)\]\(([^)]*)\)")  # brackets of its text are escaped


@dataclasses.dataclass(frozen=True)
class Section:
    """One part.

    Attributes:
      title: its heading, as text.
      body: Markdown, without that heading; the images are named from the workdir.
      folded: shown only when asked for, where the page can.
    """

    title: str
    body: str
    folded: bool = False


def from_document(document: Path, workdir: Path) -> Section:
    """A report that a stage wrote; its first heading is the title, the others go one step down.

    Raises:
      InputError: it is no text or has none, or an image is not of the workdir.
    """
    try:
        title, *lines = document.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{document}: not readable as text ({error})") from error
    if not title.startswith("# "):
        raise InputError(f"{document}: found {title[:80]!r}, expected a heading first")

    def from_workdir(image: re.Match[str]) -> str:
        found = (document.parent / image[2]).resolve()
        if not found.is_relative_to(workdir.resolve()):
            raise InputError(f"{document}: found an image {found}, expected one of {workdir}")
        place = found.relative_to(workdir.resolve()).as_posix()
        return f"![{image[1]}]({urllib.parse.quote(place)})"  # folders may have any name

    lines = [f"#{line}" if line.startswith("#") else line for line in lines]
    body = IMAGE.sub(from_workdir, "\n".join(lines).strip())
    return Section(title.removeprefix("# "), body)


def as_document(title: str, sections: list[Section]) -> str:
    """All of them as one Markdown document."""
    parts = [f"## {one.title}\n\n{one.body}" for one in sections]
    return "\n\n".join([f"# {title}", *parts]) + "\n"
