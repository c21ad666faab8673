"""Make one HTML page of text, tables and pictures, without scripts, network or other files."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cli.display import plain
from cli.pictures.canvas import SHARP

if TYPE_CHECKING:
    from PIL import Image

STYLE = """
:root { --ink: #1f2328; --faint: #59636e; --line: #d8dee4; --red: #c8102e; --paper: #fff; --code: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --faint: #9aa5b1; --line: #3d444d; --red: #ff7b8a; }
  :root { --paper: #0d1117; --code: #1b222b; }
}
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-bottom: .3rem; }
h2 { border-bottom: 1px solid var(--line); }
p { max-width: 46rem; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
nav a { color: inherit; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; display: block; background: #fff; border-radius: 6px; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td:first-child { min-width: 5rem; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.own td { color: var(--red); font-weight: 600; }
pre { background: var(--code); border-radius: 6px; padding: .8rem; overflow-x: auto; font-size: .85rem; }
@media (max-width: 40rem) {
  body { font-size: 15px; }
  th, td { padding-right: .6rem; }
  .wide img { max-width: none; }
}
@media print {
  :root { --ink: #000; --faint: #444; --line: #ccc; --red: #c8102e; --paper: #fff; --code: #f6f8fa; }
}
@media print { main { max-width: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return the page. sections: (heading, HTML)."""
    links = "".join(f'<a href="#{name(heading)}">{escape(heading)}</a>' for heading, _ in sections)
    body = "".join(
        f'<section id="{name(heading)}"><h2>{escape(heading)}</h2>{content}</section>\n'
        for heading, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        f'<h1>{escape(title)}</h1><p class="faint">{escape(subtitle)}</p>\n<nav>{links}</nav>\n'
        f"{body}</main></body></html>\n"
    )


def escape(words: str) -> str:
    return html.escape(plain(words))


def name(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def text(words: str, faint: bool = False) -> str:
    return f"<p{' class=faint' if faint else ''}>{escape(words)}</p>"


def code(lines: Iterable[str]) -> str:
    return f"<pre>{chr(10).join(map(escape, lines))}</pre>"


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0, own: int | None = None
) -> str:
    """Return a table; its last `numbers` columns are flush right, row `own` stands out."""
    first = len(headings) - numbers

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = (" class=n" if column >= first else "" for column in range(len(row)))
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(
        f"<tr{' class=own' if number == own else ''}>{cells(row, 'td')}</tr>\n"
        for number, row in enumerate(rows)
    )
    head = f"<thead><tr>{cells(headings, 'th')}</tr></thead>" if any(headings) else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>\n'


def picture(png: io.BytesIO, about: str) -> str:
    """Put a PNG of `save` into the page, at its layout's size. On a phone a wide one scrolls, to be read."""
    from PIL import Image

    image = Image.open(png).convert("RGB")
    data = base64.b64encode(_smaller(image)).decode()
    return (
        f'<figure><div class="scroll wide"><img width="{image.width // SHARP}" alt="{escape(about)}" '
        f'src="data:image/webp;base64,{data}"></div><figcaption>{escape(about)}</figcaption></figure>\n'
    )


def _smaller(image: "Image.Image") -> bytes:
    """Return the smaller WebP: a drawing's is lossless, that of photographs is not (a tenth of the PNG)."""
    files = io.BytesIO(), io.BytesIO()
    image.save(files[0], "webp", lossless=True, quality=50)
    image.save(files[1], "webp", quality=85)
    return min((file.getvalue() for file in files), key=len)
