"""What only BART's ``pics`` can be asked for: regularisation terms in its own words, and its mode of low memory.

A term is what stands behind ``-R``: a letter, bitmasks of BART's dimensions, and a weight. The solver is BART's
choice, found with 0.8.00: conjugate gradients for Q alone, FISTA for one term that has a proximal map (I, W, F, L),
ADMM for the others and for several, whose iterations are those of the conjugate gradients in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..bart import Feature
from ..errors import UserError

if TYPE_CHECKING:
    from . import Backend, Regulariser, Shift, Solver

# Letter: its number of bitmasks. Left out are those that count a share of the voxels, added ones included (N, H),
# that BART has given up (M), or that name a file (TF).
_BITMASKS = {"Q": 0, "I": 1, "W": 2, "F": 2, "T": 2, "G": 2, "C": 2, "L": 2}
_PROXIMAL = "IWFL"
_SHAPES = "Q:C, I:B:C, or X:A:B:C with X one of W, F, T, G, C, L"
_MASK = r"[0-9]{1,5}"
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?"
_SPATIAL = 7

# By the release notes and help texts of BART
_OVERLAP = Feature("shift overlap with the backend bart (pics -N)", (0, 5, 0))
_LOWMEM = Feature("the low-memory mode (pics -U)", (0, 7, 0))
_PSF = Feature("a kernel cache with the backend bart (pics --psf_export)", (0, 8, 0))
_GENERALISED = Feature("total generalised or infimal convolution variation (pics -R G, C)", (0, 8, 0))


@dataclass(frozen=True)
class Term:
    """One regularisation term.

    Parameters
    ----------
    kind : str
        BART's letter.
    masks : tuple of int
        Bitmasks of dimensions; what each means depends on the letter.
    weight : float
        Its lambda, for data as they are (``-w 1``).
    """

    kind: str
    masks: tuple[int, ...]
    weight: float

    @classmethod
    def read(cls, text: str) -> Term:
        """Return the term that BART would read in `text`.

        Raises
        ------
        UserError
            It is none, or a weight that is no number in single precision.
        """
        kind, *rest = text.split(":")
        fits = kind in _BITMASKS and len(rest) == _BITMASKS[kind] + 1
        fits = fits and all(re.fullmatch(_MASK, mask) for mask in rest[:-1]) and bool(re.fullmatch(_NUMBER, rest[-1]))
        if not fits or not float(rest[-1]) < 1e30:
            raise UserError(
                f"a term of bart is {text!r}, expected {_SHAPES}: A and B bitmasks of BART's dimensions, C a weight "
                "from 0 on; see 'bart pics -Rh'"
            )
        return cls(kind, tuple(map(int, rest[:-1])), float(rest[-1]))

    def scaled(self, scale: float) -> Term:
        """Return the term that does to the data what this one does to data / scale, multiplied by it again."""
        return self if self.kind == "Q" else replace(self, weight=scale * self.weight)

    def __str__(self) -> str:
        """Return it as BART reads it."""
        return ":".join([self.kind, *map(str, self.masks), f"{self.weight:.9g}"])


@dataclass(frozen=True)
class BartOptions:
    """Options of the backend bart alone.

    Parameters
    ----------
    terms : tuple of str
        Regularisation terms, each as after ``pics -R``, e.g. ``W:7:0:0.01``; instead of `regulariser` and `lam`.
        What A and B mean, ``bart pics -Rh`` says; dimension 0 is the last axis of an image, 6 the coefficients.
    lowmem : bool
        ``pics -U``: take less memory for the transform of readouts.
    keep : str, optional
        Folder that gets the files of ``pics``, see `bart_files.keep`.
    """

    terms: tuple[str, ...] = ()
    lowmem: bool = False
    keep: str | None = None

    def read(self) -> list[Term]:
        """Return the terms.

        Raises
        ------
        UserError
            One of them is none of BART's.
        """
        return [Term.read(text) for text in self.terms]

    def check(self, *, backend: Backend, regulariser: Regulariser, lam: float, shift: Shift) -> None:
        """Refuse what does not go together.

        Raises
        ------
        UserError
            These options and those of `reconstruct` contradict each other, or a term is none of BART's.
        """
        if backend != "bart" and self != PLAIN:
            raise UserError(
                f"terms, low memory or files of bart are asked for, but the backend is {backend}; take the backend bart"
            )
        kinds = [term.kind for term in self.read()]
        if kinds and (regulariser != "l2" or lam):
            raise UserError(
                f"regulariser is {regulariser} and lam is {lam:g}, but terms of bart have weights of their own; "
                "leave the one or the other out"
            )
        if kinds.count("Q") > 1:
            raise UserError("bart takes one term Q, which several are given of; give one with the sum of the weights")
        if shift == "overlap" and kinds and ("L" not in kinds or "W" in kinds):
            raise UserError("shift is overlap, which bart has for L without W only; use random or none")

    def solver(self) -> Solver:
        """Return which solver BART takes for the terms."""
        return solver_of(self.read())

    def features(self, *, shift: Shift, regulariser: Regulariser, psf: bool) -> list[Feature]:
        """Return what BART must be new enough for; `psf`: its kernels are kept."""
        kinds = {term.kind for term in self.read()}
        wanted = {
            _OVERLAP: shift == "overlap" and (regulariser == "llr" or "L" in kinds),
            _LOWMEM: self.lowmem, _PSF: psf, _GENERALISED: bool(kinds & {"G", "C"}),
        }  # fmt: skip
        return [feature for feature, needed in wanted.items() if needed]


PLAIN = BartOptions()


def solver_of(terms: Sequence[Term]) -> Solver:
    """Return which solver BART takes for terms."""
    kinds = [term.kind for term in terms]
    if kinds in ([], ["Q"]):
        return "cg"
    return "fista" if len(kinds) == 1 and kinds[0] in _PROXIMAL else "admm"


def check_padding(terms: Sequence[Term], shape: tuple[int, ...], padded: tuple[int, ...]) -> None:
    """Refuse terms that mean something else in an image with more voxels.

    Raises
    ------
    UserError
        A Fourier transform runs along an axis that has to be longer in BART.
    """
    grown = sum(1 << i for i, (n, big) in enumerate(zip(shape[::-1], padded[::-1], strict=True)) if big > n)
    for term in terms:
        if term.kind == "F" and term.masks[0] & _SPATIAL & grown:
            raise UserError(
                f"the term {term} transforms an axis that bart must be given longer, image {shape}, bart {padded}: "
                "its frequencies would be others; take an even matrix and no term L, or another term"
            )
