"""One page of HTML that needs nothing but itself: text, tables, lines to paste, and plots with switches.

All text is escaped here and nowhere else. The page names the hashes of its scripts, so that a browser runs no other and
loads nothing; without scripts, sentences and tables are still there.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def html(self) -> Html:
        """The table, in a box of its own that scrolls."""
        head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in self.header)
        body = "".join(
            f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>'
            for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        # who has no mouse scrolls by keys
        return Html(f'<div class="scroll" tabindex="0" role="region" aria-label="table">{table}</div>')


@dataclass(frozen=True)
class View:
    """What a plot shows under one setting of its switches: of every attribute a list, with an entry for each trace."""

    data: Mapping[str, Sequence[Any]]
    layout: Mapping[str, Any]
    said: str


@dataclass(frozen=True)
class Plot:
    """A plot with its text alternatives.

    Parameters
    ----------
    title : str
        Its heading.
    figure : mapping
        ``data`` and ``layout``, as Plotly has them.
    views : mapping of str to View
        By the numbers of the options of the panel's switches, with dots between; ``*`` stands for any.
    table : Table
        The figures behind it.
    """

    title: str
    figure: Mapping[str, Any]
    views: Mapping[str, View]
    table: Table


@dataclass(frozen=True)
class Panel:
    """Plots that switches of their own change: label and options of each."""

    plots: Sequence[Plot]
    switches: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def html(self) -> Html:
        """The switches and the plots."""
        labels = "".join(
            f'<label>{_text(label)}<select aria-label="{_text(label)}">'
            f"{''.join(f'<option>{_text(option)}</option>' for option in options)}</select></label>"
            for label, options in self.switches.items()
        )
        form = f'<form class="switches" autocomplete="off" hidden>{labels}</form>' if labels else ""
        return Html(f'<div class="panel">{form}<div class="plots">{"".join(map(_figure, self.plots))}</div></div>')


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Html]


def paragraph(text: str, kind: str = "") -> Html:
    """Return a paragraph of text."""
    return Html(f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>")


def terms(entries: Mapping[str, str]) -> Html:
    """Return a list of names and what they are."""
    return Html(
        f"<dl>{''.join(f'<dt>{_text(key)}</dt><dd>{_text(value)}</dd>' for key, value in entries.items())}</dl>"
    )


def bullets(entries: Sequence[str]) -> Html:
    """Return a list of lines."""
    return Html(f"<ul>{''.join(f'<li>{_text(entry)}</li>' for entry in entries)}</ul>")


def code(title: str, lines: str) -> Html:
    """Return lines to paste under a title."""
    return Html(f'<h3>{_text(title)}</h3><div class="code"><pre tabindex="0"><code>{_text(lines)}</code></pre></div>')


def folded(title: str, block: Html) -> Html:
    """Return a block that is shown when its title is clicked."""
    return Html(f"<details><summary>{_text(title)}</summary>{block}</details>")


def document(title: str, subtitle: str, sections: Sequence[Section], *, library: str, colophon: str) -> str:
    """Return the whole page.

    Parameters
    ----------
    title, subtitle : str
        Of the page.
    sections : sequence of Section
        What stands on it.
    library : str
        The script that draws.
    colophon : str
        The last line.
    """
    scripts = [library, resources.files(__package__).joinpath("page.js").read_text(encoding="utf-8")]
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    # data are no script that is run, so that they need no hash
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    links = "".join(f'<li><a href="#s{i}">{_text(one.title)}</a></li>' for i, one in enumerate(sections))
    body = "".join(
        f'<section id="s{i}"><h2>{_text(one.title)}</h2>{"".join(one.blocks)}</section>'
        for i, one in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_text(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{style}</style></head>\n"
        f'<body><header><h1>{_text(title)}</h1><p class="soft">{_text(subtitle)}</p><nav><ul>{links}</ul></nav>'
        "</header>\n"
        f"<main>{body}</main>\n<footer><p>{_text(colophon)}</p></footer>\n"
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


def _figure(plot: Plot) -> str:
    views = {key: {"data": view.data, "layout": view.layout, "said": view.said} for key, view in plot.views.items()}
    said = next(iter(plot.views.values())).said
    # the data of a script end at the first </script>, whatever is around it
    content = json.dumps({**plot.figure, "views": views}, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        content = content.replace(sign, f"\\u{ord(sign):04x}")
    return (
        f'<figure><h3>{_text(plot.title)}</h3><div class="plot" role="img" aria-label="{_text(said)}"></div>'
        f'<figcaption><span class="said" aria-live="polite">{_text(said)}</span>'
        f"{folded('The same as a table', plot.table.html)}</figcaption>"
        f'<script type="application/json">{content}</script></figure>'
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
