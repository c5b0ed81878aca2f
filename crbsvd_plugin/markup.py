"""XML that comes from outside, without entities and without bounds that only memory sets."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.parsers import expat

_MAX_DEPTH = 64
_MAX_ELEMENTS = 200_000


def parse_xml(text: bytes | str) -> ElementTree.Element:
    """Return the root of a document; NULs at its end are tolerated.

    Raises
    ------
    ValueError
        It is no XML, declares a document type (and with it entities, which may grow without bound), or is deeper or
        longer than anything that is written for us; the text says which.
    """
    text = text.rstrip(b"\0") if isinstance(text, bytes) else text.rstrip("\0")
    scanner = expat.ParserCreate()
    depth = n_elements = 0

    def enter(name: str, _attributes: dict[str, str]) -> None:
        nonlocal depth, n_elements
        depth, n_elements = depth + 1, n_elements + 1
        if depth > _MAX_DEPTH or n_elements > _MAX_ELEMENTS:
            raise ValueError(f"more than {_MAX_DEPTH} levels or {_MAX_ELEMENTS} elements, at {name[:40]!r}")

    def leave(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(name: str, *_identifiers: object) -> None:
        raise ValueError(f"a document type {name[:40]!r} is declared, expected none")

    scanner.StartElementHandler, scanner.EndElementHandler = enter, leave
    scanner.StartDoctypeDeclHandler = refuse
    try:
        scanner.Parse(text, True)
        return ElementTree.fromstring(text)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(str(error)) from None
