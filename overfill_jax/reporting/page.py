"""A report as one HTML file that needs no other: images inside, both colour schemes, any width."""

import base64
import html
import urllib.parse
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML

from overfill_jax.errors import InputError
from overfill_jax.reporting.section import Section

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6b6b70; --paper: #fff; --line: #e3e3e6;
  --shade: #f5f5f7; --link: #0059a8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a0a0a6; --paper: #17171a; --line: #36363b; --shade: #222226;
    --link: #79b8ff }
  img { filter: invert(.91) hue-rotate(180deg) } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.8rem; line-height: 1.2 }
h2 { font-size: 1.35rem; margin-top: 3rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1.08rem; margin-top: 1.8rem }
a { color: var(--link) }
nav ul { columns: 17rem; padding-left: 1.1rem }
img { max-width: 100%; height: auto }
.wide { display: block; overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top }
td[style], td:first-child { white-space: nowrap }
td:not([style], :first-child) { overflow-wrap: anywhere }
@media (max-width: 38rem) {
  img { width: 38rem; max-width: none }
  th, td { padding: .32rem .4rem }
  td:first-child { white-space: normal } }
th { text-align: left; font-weight: 600; color: var(--soft) }
tbody tr:hover { background: var(--shade) }
pre { background: var(--shade); padding: .8rem; overflow-x: auto; font-size: .8rem }
code { font-family: ui-monospace, monospace; font-size: .9em }
summary { cursor: pointer; margin: .5rem 0 }
"""


def as_page(title: str, sections: list[Section], workdir: Path) -> str:
    """All sections as HTML; what models wrote is text in it, and never anything else.

    Raises:
      InputError: an image that is not there, or not of the workdir.
    """
    reader = _reader(workdir)
    shown = [f'<li><a href="#part-{n}">{html.escape(s.title)}</a>' for n, s in _open(sections)]
    parts = [
        f'<h2 id="part-{n}">{html.escape(s.title)}</h2>\n{reader.render(s.body)}'
        for n, s in _open(sections)
    ]
    folded = [
        f"<details><summary>{html.escape(s.title)}</summary>\n{reader.render(s.body)}</details>"
        for s in sections
        if s.folded
    ]
    name = html.escape(title)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title>\n<style>{STYLE}</style>\n<h1>{name}</h1>",
            f"<nav><ul>{''.join(shown)}</ul></nav>",
            *parts,
            *folded,
            "</html>\n",
        ]
    )


def _open(sections: list[Section]) -> list[tuple[int, Section]]:
    return [(number, one) for number, one in enumerate(sections, 1) if not one.folded]


def _reader(workdir: Path) -> MarkdownIt:
    reader = MarkdownIt("commonmark").enable("table")

    def image(self: RendererHTML, tokens, index, options, env) -> str:
        token = tokens[index]
        told = html.escape(self.renderInlineAsText(token.children, options, env))
        source = _embedded(token, workdir)
        return f'<span class="wide"><img alt="{told}" src="{source}"></span>'

    def inline(self: RendererHTML, tokens, index, options, env) -> str:
        # Line ends within a cell are ours; other tags would be of a text that nobody has escaped.
        content = tokens[index].content
        return content if content == "<br>" else html.escape(content)

    def block(self: RendererHTML, tokens, index, options, env) -> str:
        return f"<p>{html.escape(tokens[index].content)}</p>\n"

    reader.add_render_rule("image", image)
    reader.add_render_rule("html_inline", inline)
    reader.add_render_rule("html_block", block)
    # On a phone tables and figures scroll by themselves, and the page does not.
    reader.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    reader.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return reader


def _embedded(token, workdir: Path) -> str:
    name = urllib.parse.unquote(str(token.attrs["src"]))
    path = (workdir / name).resolve()
    if path.suffix != ".png" or not path.is_relative_to(workdir.resolve()) or not path.is_file():
        raise InputError(f"{path}: no such figure; expected a PNG file in {workdir}")
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
