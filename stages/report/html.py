"""The few pieces of HTML that the page is made of. Text is escaped; pictures are inline."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

JPEG_QUALITY = 90
# The same ids and fonts each time: equal runs give equal bytes.
SVG: dict[Any, str] = {"svg.hashsalt": "render2real", "svg.fonttype": "none", "font.family": "sans-serif"}


def section(anchor: str, title: str, lead: str, *parts: str) -> str:
    """A titled part of the page; `parts` are HTML."""
    return "\n".join(
        (f'<section id="{anchor}">', f"<h2>{escape(title)}</h2>", paragraph(lead, "lead"), *parts, "</section>")
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", text: Sequence[int] = ()) -> str:
    """A table, which scrolls sideways on a narrow screen; `text` are the columns of running text."""
    kinds = [_class("text" if column in text else "") for column in range(len(head))]
    lines = [
        f"<thead><tr>{''.join(f'<th{k}>{escape(name)}</th>' for k, name in zip(kinds, head, strict=True))}</tr></thead>"
    ]
    lines += [
        f"<tr>{''.join(f'<td{k}>{cell(value)}</td>' for k, value in zip(kinds, row, strict=True))}</tr>" for row in rows
    ]
    above = f'<p class="caption">{escape(caption)}</p>\n' if caption else ""  # where it wraps, and does not scroll
    return above + '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def cell(value: object) -> str:
    """A value as text: counts with thousands apart, lists with commas, a dash for nothing."""
    if value is None or value == () or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple | list):
        return ", ".join(map(cell, value))
    return escape(str(value))


def facts(values: Mapping[str, object], kind: str = "") -> str:
    """Named values in a row."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{cell(value)}</dd></div>" for name, value in values.items())
    return f"<dl{_class(kind)}>{''.join(items)}</dl>"


def bars(values: Mapping[str, float], caption: str, first: float, last: float, unit: str) -> str:
    """Horizontal bars on a scale from `first` to `last`, each with its name and number."""
    lines = []
    for name, value in values.items():
        share = min(max((value - first) / (last - first), 0), 1)
        lines.append(
            f'<span>{escape(name)}</span><span class="bar"><i style="width:{share:.1%}"></i></span>'
            f"<span>{value:.2f} {escape(unit)}</span>"
        )
    return f'<figure><div class="bars">{"".join(lines)}</div><figcaption>{escape(caption)}</figcaption></figure>'


def chart(figure: Figure, alt: str, caption: str) -> str:
    """A matplotlib figure, inline as SVG."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SVG):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _figure("image/svg+xml", buffer.getvalue(), alt, caption)


def picture(image: np.ndarray, alt: str, caption: str) -> str:
    """An image [h, w, 3] uint8 RGB, inline as JPEG: a third of its PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=JPEG_QUALITY, subsampling=0)
    return _figure("image/jpeg", buffer.getvalue(), alt, caption)


def png(content: bytes, alt: str, caption: str) -> str:
    """A PNG file, inline as it is."""
    return _figure("image/png", content, alt, caption)


def details(summary: str, *parts: str) -> str:
    """Parts that stay closed until the reader opens them."""
    return "\n".join((f"<details><summary>{escape(summary)}</summary>", *parts, "</details>"))


def _figure(kind: str, content: bytes, alt: str, caption: str) -> str:
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
