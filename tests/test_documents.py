"""What the documents link to exists: files, and headings within them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


def prose(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return what can follow # in a link to a document: its headings as GitHub writes them, and its own anchors."""
    text = prose(document)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def broken(document: Path) -> list[str]:
    """Return the relative links of a document that lead nowhere."""
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        there = document.parent / name if name else document
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(link)
    return lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text('# Of `K` = 5, and more\n<a id="own"></a>\n', encoding="utf-8")
    good = "[a](there.md) [b](there.md#of-k--5-and-more) [c](there.md#own) [d](https://no.where/x.md)\n"
    fenced = "```\n[e](nowhere.md)\n```\n"
    page = tmp_path / "page.md"
    page.write_text(good + fenced + "[f](gone.md) [g](there.md#gone) ![h](gone.png)\n", encoding="utf-8")
    assert broken(page) == ["gone.md", "there.md#gone", "gone.png"]
