"""A basis, a sweep, a study and a rank.json of one short sequence, to make reports from, and how a report is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cli_case

from crbsvd_plugin.cli import main

SMALL = ("--train", "60", "--threads", "1")
WEIGHTS = ("--crb-weights", "0,0.5")
EVIL = '<script>alert("&")</script><img src="x" onerror="hacked = 1">'


def build(folder: Path) -> Path:
    """Make the basis b and the folders sweep, study and rank."""
    cli_case.write_spec(folder)
    spec, *names = (str(folder / name) for name in ("spec.toml", "b", "sweep", "study"))
    assert main(["basis", spec, "-o", names[0], *SMALL, "--rank", "4", "--atoms", "100"]) == 0
    assert main(["sweep", spec, "-o", names[1], *SMALL, *WEIGHTS, "--rank", "5", "--converge"]) == 0
    fit = (
        "--at",
        "T1=0.8,T2=0.05",
        "--at",
        "T1=1.4,T2=0.1",
        "--measurements",
        "20",
        "--ranks",
        "3,4",
        "--atoms",
        "200",
    )
    assert main(["study", spec, "-o", names[2], *SMALL, *WEIGHTS, *fit]) == 0
    (folder / "rank").mkdir()
    (folder / "rank" / "rank.json").write_text(json.dumps(rank_of(folder)))
    return folder


def rank_of(folder: Path) -> dict[str, Any]:
    """Return what `crbsvd rank` writes: noise grows with the rank, what the basis leaves out falls."""
    rows = [
        {
            "rank": k,
            "tissue": tissue,
            "parameter": name,
            "noise": k * scale,
            "leak": scale / k,
            "total": (k + 1) * scale,
        }
        for tissue, factor in (("gm+wm", 1), ("csf", 3))
        for name, scale in (("T1", 0.01 * factor), ("T2", 0.002 * factor))
        for k in range(1, 6)
    ]
    model = json.loads((folder / "sweep" / "sweep.json").read_text())["model"]
    return {
        "format": "crbsvd-rank/1",
        "model": model,
        "rows": rows,
        "recommended": 3,
        "rule": "least",
        "scan": "a<b>.h5",
        "more": {"x": 1},
    }


def changed(folder: Path, name: str, new: str, change: Any) -> str:
    """Copy a folder, change the content of its JSON file, and return the new one's path."""
    shutil.copytree(folder / name, folder / new)
    path = folder / new / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return str(folder / new)


def renamed(content: dict[str, Any]) -> None:
    """Give a class, a parameter and the sequence of a sweep names that are HTML, or end a script."""
    for row in content["rows"]:
        row["tissue"] = {"csf": EVIL}.get(row["tissue"], row["tissue"])
        row["parameter"] = {"T2": "</script>T2"}.get(row["parameter"], row["parameter"])
    content["model"]["name"] = EVIL
    content["prior"]["name"] = EVIL
    content["recommended"]["rule"] = EVIL
    for key in ("points", "regressions"):
        content[key]["</script>T2"] = content[key].pop("T2")
    for pairs in content["points"].values():
        pairs[EVIL] = pairs.pop("csf")


def certified(content: dict[str, Any]) -> None:
    """Give a sweep a certificate."""
    content["certificate"] = [
        {"crb_weight": weight, "rank": k, "cost": (0.2 + weight) / k, "bound": 0.1 / k if k > 1 else None}
        for weight in (0.0, 0.5)
        for k in range(1, 6)
    ]


@dataclass
class Figure:
    """A plot as it is in the file: data, layout, views, and the switches of its panel with their options."""

    title: str
    content: dict[str, Any]
    switches: list[tuple[str, list[str]]]
    said: str = ""

    def view(self, **chosen: str) -> dict[str, Any]:
        """Return what is shown with these options chosen; `Tissue` for the switch of that name."""
        indices = [options.index(chosen.get(label.split()[0], options[0])) for label, options in self.switches]
        found = [
            view
            for key, view in self.content["views"].items()
            if all(part in ("*", str(i)) for part, i in zip(key.split("."), indices or ["*"], strict=True))
        ]
        (view,) = found
        return view


@dataclass
class Read(HTMLParser):
    """What a browser would find in a page."""

    headings: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    tables: list[list[list[str]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._switches: list[tuple[str, list[str]]] = []
        self._title = ""

    @classmethod
    def of(cls, page: str) -> Read:
        """Read a page."""
        found = cls()
        found.feed(page)
        found.close()
        assert not found._open, "an element is not closed"
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        entry = (tag, dict(attrs))
        self.tags.append(entry)
        if tag in ("meta", "img"):
            return
        self._open.append(entry)
        if tag == "div" and entry[1].get("class") == "panel":
            self._switches = []
        if tag == "select":
            self._switches.append((entry[1]["aria-label"] or "", []))
        starts = {"h2": self.headings, "option": self._switches[-1][1] if self._switches else [], "code": self.code}
        if tag in starts:
            starts[tag].append("")
        if tag == "h3":
            self._title = ""
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        tag, attributes = self._open[-1]
        if tag == "script" and attributes.get("type") == "application/json":
            self.figures[self._title] = Figure(self._title, json.loads(data), list(self._switches))
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "h2":
            self.headings[-1] += data
        elif tag == "h3":
            self._title += data
        elif tag == "option":
            self._switches[-1][1][-1] += data
        elif tag == "code":
            self.code[-1] += data
        elif tag in ("th", "td"):
            self.tables[-1][-1][-1] += data
        if tag not in ("script", "style"):
            self.text += data

    def settings(self, title: str) -> Iterator[dict[str, str]]:
        """Yield every combination of the options of a plot's switches."""
        combinations: list[dict[str, str]] = [{}]
        for label, options in self.figures[title].switches:
            combinations = [{**one, label.split()[0]: option} for one in combinations for option in options]
        yield from combinations
