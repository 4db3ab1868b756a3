"""Reports as HTML: headings, tables and figures in one page that loads nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

__all__ = ["figure", "heading", "page", "paragraph", "table"]

STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em}"
    "figure{display:inline-block;margin:.5em}img{width:29em}"
)


def page(title: str, *parts: str) -> str:
    """Return a whole page; ``parts`` come from the functions below."""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{''.join(parts)}</body></html>\n"
    )


def heading(text: str) -> str:
    """Return a heading below the page's title."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, strong: bool = False) -> str:
    """Return a paragraph."""
    inner = html.escape(text)
    return f"<p><b>{inner}</b></p>" if strong else f"<p>{inner}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; numbers get four digits, no columns no head."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if columns else ''}{body}</table>"


def figure(caption: str, image: bytes) -> str:
    """Return a PNG with its caption, inside the page."""
    source, text = base64.b64encode(image).decode(), html.escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{k} {v:.3f}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
