"""HTML pages, contact sheets and Matplotlib figures; Matplotlib is imported only for plots."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from warnings import catch_warnings, simplefilter

from PIL import Image, ImageDraw, ImageFont

from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.images import to_jpeg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = (5.5, 4.0)
PLOT_DPI = 120
SHEET_MARGIN = 8
CAPTION_SIZE = 13
JPEG_QUALITY = 85
INK, PAPER, GOOD, BAD = "#222222", "#ffffff", "#1a7f37", "#b3261e"

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; }}
  body {{ padding: 0 1rem; }}
  table {{ border-collapse: collapse; }}
  th, td {{ padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd; }}
  td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
  .heat {{ margin: 1rem 0; font-size: 13px; }}
  .heat td {{ text-align: center; min-width: 1.6rem; padding: .1rem; border: 1px solid #eee; }}
  .heat tr:first-child {{ vertical-align: bottom; }}
  .heat tr:first-child span {{ writing-mode: vertical-rl; transform: rotate(180deg); }}
  .heat a {{ color: inherit; text-decoration: none; }}
  figure {{ display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }}
  figcaption {{ font-size: 13px; white-space: pre-line; }}
  img {{ max-width: 100%; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


class Tile(NamedTuple):
    """One image of a contact sheet; `good` colors its caption: right, wrong, or neither."""

    image: Image.Image
    caption: str
    good: bool | None = None


def panels(count: int, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure of `count` plots side by side, and their axes in reading order.

    Raises:
        UserError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need Matplotlib: pip install matplotlib") from error
    columns = min(columns, count)
    rows = -(-count // columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.set_axis_off()
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def write_figure(path: str | os.PathLike, figure: Figure) -> None:
    """Writes a Matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PLOT_DPI)
    atomic_write(path, buffer.getvalue())


def line_plot(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """An inline SVG of named lines (x, y); without Matplotlib, a sentence that says so.

    Args:
        limits: range of both axes; None: that of the data.
    """
    try:
        plot, (axes,) = panels(1)
    except UserError as error:
        return f"<p>{html.escape(str(error))}</p>"
    from matplotlib import rc_context

    # Text stays text, in the reader's fonts, and a `$` in a name does not start a formula.
    with rc_context({"svg.fonttype": "none", "text.parse_math": False}), catch_warnings():
        simplefilter("ignore")  # warnings about letters that Matplotlib's own font lacks
        drawn = [axes.plot(x, y)[0] for x, y in lines.values()]
        axes.set(xlabel=x_label, ylabel=y_label, xlim=limits, ylim=limits)
        axes.legend(drawn, lines, fontsize="small")
        text = io.StringIO()
        plot.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]  # without the XML header


def contact_sheet(tiles: Sequence[Tile], columns: int, side: int) -> Image.Image:
    """All tiles in a grid, each image fitted into side x side pixels above its caption.

    Raises:
        UserError: there is no tile.
    """
    if not tiles:
        raise UserError("a contact sheet needs at least one image")
    font = ImageFont.load_default(CAPTION_SIZE)
    lines = max(tile.caption.count("\n") + 1 for tile in tiles)
    line_height = round(CAPTION_SIZE * 1.3)
    cell_width, cell_height = side + SHEET_MARGIN, side + lines * line_height + 2 * SHEET_MARGIN
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (columns * cell_width + SHEET_MARGIN, rows * cell_height + SHEET_MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        x, y = SHEET_MARGIN + column * cell_width, SHEET_MARGIN + row * cell_height
        sheet.paste(_fitted(tile.image, side), (x, y))
        color = INK if tile.good is None else GOOD if tile.good else BAD
        for number, line in enumerate(tile.caption.split("\n")):
            text = _shortened(line, font, side)
            draw.text((x, y + side + 2 + number * line_height), text, fill=color, font=font)
    return sheet


def write_image(path: str | os.PathLike, image: Image.Image) -> None:
    """Writes an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    atomic_write(path, buffer.getvalue())


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """The image scaled to fit a square; much smaller ones are enlarged without smoothing."""
    scale = side / max(image.size)
    size = tuple(max(1, round(length * scale)) for length in image.size)
    method = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (side, side), PAPER)
    offset = ((side - size[0]) // 2, (side - size[1]) // 2)
    square.paste(image.convert("RGB").resize(size, method), offset)
    return square


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; numbers are right-aligned, text is escaped."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


class Link(NamedTuple):
    """A table cell that links to an address; None: plain text."""

    text: str
    address: str | None


def link(address: str, text: str) -> str:
    """An HTML link; text and address are escaped."""
    return f'<a href="{html.escape(address)}">{html.escape(text)}</a>'


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Sequence[Sequence[int]],
    address: Callable[[int, int], str | None],
) -> str:
    """An HTML table of the numbers above 0, darker if larger, that link to addresses.

    Args:
        rows, columns: their names.
        counts: [rows][columns].
        address: row, column -> address; None: no link.
    """
    head = "".join(f"<th><span>{html.escape(name)}</span></th>" for name in columns)
    largest = max((n for row in counts for n in row), default=0)
    body = []
    for i, (name, row) in enumerate(zip(rows, counts, strict=True)):
        cells = (
            _heat(Link(f"{n:,}", address(i, j)), n / largest) if n else "<td></td>"
            for j, n in enumerate(row)
        )
        body.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
    return '<table class="heat">\n<tr><th></th>' + head + "</tr>\n" + "\n".join(body) + "</table>"


def _heat(number: Link, share: float) -> str:
    """A cell colored by its fraction of the largest number, 0 to 1."""
    return f'<td style="background: rgb(179 38 30 / {0.7 * share:.0%})">{_text(number)}</td>'


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{_text(value)}</td>"


def _text(value: object) -> str:
    if isinstance(value, Link):
        return link(value.address, value.text) if value.address else html.escape(value.text)
    return html.escape(str(value))


def image_address(image: Image.Image) -> str:
    """The image as a data URL, so that a page needs no other files."""
    return jpeg_address(_jpeg(image))


def jpeg_address(jpeg: bytes) -> str:
    """The bytes of a JPEG file as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def thumbnail(data: bytes, side: int) -> str:
    """A data URL of an image file's content, shrunk to fit into side x side pixels.

    Raises:
        ImageError: not a complete image, or over the limits.
    """
    return jpeg_address(small_jpeg(data, side))


def small_jpeg(data: bytes, side: int) -> bytes:
    """An image file's content, upright and shrunk to fit into side x side pixels, as JPEG.

    Raises:
        ImageError: not a complete image, or over the limits.
    """
    image = Image.open(io.BytesIO(to_jpeg(data, short_side=side).data))
    image.thumbnail((side, side))
    return _jpeg(image)


def figure(source: str, caption: str, width: int | None = None) -> str:
    """An HTML figure; `source` is the image's address as seen from the page."""
    size = f' width="{width}"' if width else ""
    image = f'<img src="{html.escape(source)}"{size} alt="" loading="lazy">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A self-contained HTML page of (heading, HTML) sections."""
    body = "\n".join(f"<h2>{html.escape(heading)}</h2>\n{text}" for heading, text in sections)
    return PAGE.format(title=html.escape(title), body=body)


def data_block(name: str, content: object) -> str:
    """JSON for a page's script: `JSON.parse(document.getElementById(name).textContent)`.

    `<` is escaped, so no text in it can end the block.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escaped = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{escaped}</script>'


def script(path: Path) -> str:
    """An HTML element with a project file's JavaScript, to put at the end of a page's section."""
    return f"<script>\n{path.read_text('utf-8')}</script>"
