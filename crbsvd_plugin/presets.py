"""Priors by name."""

from __future__ import annotations

import math

from .distribution import Distribution, Grid, Normal, Reciprocal, Uniform, fixed
from .prior import Prior, Tissue

_MAO_MRF_TABLE1 = Prior(
    "mao-mrf-table1",
    (
        Tissue("gm+wm", {"T1": Grid(0.5, 1.5, 500), "T2": Grid(0.010, 0.200, 500), "B1": fixed(1)}),
        Tissue("fat", {"T1": Grid(0.25, 0.55, 125), "T2": Grid(0.060, 0.140, 125), "B1": fixed(1)}),
        Tissue("csf", {"T1": Grid(3.0, 5.0, 125), "T2": Grid(1.5, 2.5, 125), "B1": fixed(1)}),
    ),
)
# The prior of the basis has a hole between 1.5 and 3 s, which a fit must not have
_RELAXATION = Prior(
    "t1-t2",
    (Tissue("all", {"T1": Grid(0.1, 5.5, 400, "log"), "T2": Grid(0.005, 3.0, 400, "log"), "B1": fixed(1)}),),
    ordered=(("T2", "T1"),),
)
# Both plates of the ISMRM/NIST system phantom at 3 T (`vials`) with room around them
_NIST = Prior(
    "nist",
    (Tissue("vials", {"T1": Grid(0.015, 3.0, 400, "log"), "T2": Grid(0.004, 2.0, 480, "log"), "B1": fixed(1)}),),
    ordered=(("T2", "T1"),),
)


def _time(mean: float, sd: float, low: float, high: float) -> Reciprocal:
    """Return the distribution of the rate of a time [s]."""
    return Reciprocal(Normal(mean, sd, low, high))


# Off-resonance that a balanced sequence with TR = 3.5 ms tells apart [rad/s]
_W0 = Uniform(-math.pi / 3.5e-3, math.pi / 3.5e-3)
_SLOWER = (("R1f", "R2f"),)
# Table I prints no limits where this says so: three standard deviations, and no rate or fraction that is not positive
_TABLE1_SOLID: dict[str, Distribution] = {
    "Rx": Normal(30, 10, 1, 60),  # limits are ours
    "R1s": Normal(4, 2, 0.5, 10),  # limits are ours
    "T2s": Normal(10e-6, 3e-6, 5e-6, 20e-6),
}
_TABLE1_B1 = Normal(0.9, 0.3, 0.6, 1.2)
_TABLE1_FIELDS: dict[str, Distribution] = {"w0": _W0, "B1": _TABLE1_B1}
_MAO_TABLE1 = Prior(
    "mao-table1",
    (
        Tissue(
            "gm+wm",
            {
                "m0s": Normal(0.2, 0.2, 0, 0.8),  # the upper limit is ours
                "R1f": _time(3, 2, 0.5, 9),  # limits are ours
                "R2f": Normal(15, 10, 1, 45),  # limits are ours
                **_TABLE1_SOLID,
                **_TABLE1_FIELDS,
            },
            n=480_000,
        ),
        Tissue(
            "fat",
            {
                "m0s": Normal(0.1, 0.1, 0, 0.4),  # the upper limit is ours
                "R1f": _time(0.4, 0.075, 0.175, 0.625),  # limits are ours
                "R2f": _time(0.1, 0.02, 0.04, 0.16),  # limits are ours
                **_TABLE1_SOLID,
                **_TABLE1_FIELDS,
            },
            n=60_000,
        ),
        # the table has m0s = 0, where three derivatives vanish; what it leaves open is at the others' means
        Tissue(
            "csf",
            {
                "m0s": fixed(1e-3),
                "R1f": _time(4, 0.5, 2.5, 5.5),  # limits are ours
                "R2f": _time(2, 0.25, 1.25, 2.75),  # limits are ours
                "Rx": fixed(30),
                "R1s": fixed(4),
                "T2s": fixed(10e-6),
                **_TABLE1_FIELDS,
            },
            n=60_000,
        ),
    ),
    ordered=_SLOWER,
)

_LITTLE_SOLID: dict[str, Distribution] = {"m0s": fixed(1e-3), "Rx": fixed(10), "R1s": fixed(3), "T2s": fixed(12e-6)}
_CRBBASIS = Prior(
    "crbbasis",
    (
        Tissue(
            "parenchyma",
            {
                "m0s": Normal(0.15, 0.15, 0, 0.35),
                "R1f": Normal(0.45, 0.2, 0.1, 1),
                "R2f": Normal(12.5, 4, 1, 20),
                "Rx": Normal(10, 5, 2, 30),
                "R1s": Normal(3, 0.75, 1, 6),
                "T2s": Normal(14e-6, 4e-6, 5e-6, 25e-6),
                "w0": _W0,
                "B1": Normal(0.9, 0.2, 0.6, 1.3),
            },
            n=32_768,
        ),
        Tissue(
            "csf",
            {
                **_LITTLE_SOLID,
                "R1f": _time(4, 0.75, 1, 7),
                "R2f": _time(2, 1, 0.5, 5),
                "w0": _W0,
                "B1": Normal(0.9, 0.3, 0.6, 1.3),
            },
            n=4096,
        ),
        Tissue(
            "fat",
            {
                **_LITTLE_SOLID,
                "R1f": _time(0.4, 0.075, 0.1, 0.7),
                "R2f": _time(0.1, 0.02, 0.05, 0.2),
                "w0": _W0,
                "B1": Normal(0.75, 0.125, 0.6, 1.3),
            },
            n=4096,
        ),
    ),
    ordered=_SLOWER,
)
# All of these tissues and what lies between them, to start a fit from
_QMT_TISSUE = Prior(
    "qmt-tissue",
    (
        Tissue(
            "all",
            {
                "m0s": Uniform(0, 0.35),
                "R1f": Uniform(0.15, 3, "log"),
                "R2f": Uniform(0.4, 60, "log"),
                "Rx": Uniform(5, 60, "log"),
                "R1s": Uniform(1, 8),
                "T2s": Uniform(7e-6, 18e-6),
                "w0": _W0,
                "B1": Uniform(0.6, 1.2),
            },
            n=20_000,
        ),
    ),
    ordered=_SLOWER,
)

# One table for models of one pool: relaxation of healthy tissue at 3 T (Stanisz et al., Magn Reson Med 54:507 (2005),
# doi 10.1002/mrm.20605; fat: Table I), transmit fields of brain and knee, and shims of +-40 Hz
_TISSUE_FIELDS: dict[str, Distribution] = {"B1": Uniform(0.7, 1.15), "w0": Uniform(-80 * math.pi, 80 * math.pi)}
_TISSUE_3T = Prior(
    "tissue-3t",
    (
        Tissue("tissue", {"T1": Uniform(0.6, 2.0), "T2": Uniform(0.02, 0.2, "log"), **_TISSUE_FIELDS}, n=40_000),
        Tissue("fat", {"T1": Uniform(0.25, 0.55), "T2": Uniform(0.06, 0.14), **_TISSUE_FIELDS}, n=5_000),
        Tissue("fluid", {"T1": Uniform(2.5, 5.0), "T2": Uniform(0.4, 2.5, "log"), **_TISSUE_FIELDS}, n=5_000),
    ),
)
# To match T2 with: T1 has little effect, and B1 a smooth one
_T2_GRID = Prior(
    "t2-grid",
    (Tissue("all", {"T2": Grid(0.005, 3.0, 300, "log"), "T1": Grid(0.25, 6.0, 6, "log"), "B1": Grid(0.6, 1.3, 14)}),),
)
_T1_GRID = Prior("t1-grid", (Tissue("all", {"T1": Grid(0.1, 6.0, 1000, "log"), "B1": Grid(0.6, 1.3, 28)}),))
_T1_T2_W0 = Prior(
    "t1-t2-w0",
    (
        Tissue(
            "all",
            {
                "T1": Grid(0.1, 6.0, 80, "log"),
                "T2": Grid(0.008, 3.0, 80, "log"),
                "w0": Grid(-90 * math.pi, 90 * math.pi, 31),
                "B1": Grid(0.6, 1.3, 8),
            },
        ),
    ),
    ordered=(("T2", "T1"),),
)
# From brain to liver at 3 T, without and with fat; shims of +-80 Hz
_GRE_W0 = Uniform(-160 * math.pi, 160 * math.pi)
_GRE_3T = Prior(
    "gre-3t",
    (
        Tissue("water", {"R2star": Uniform(10, 200, "log"), "FF": Uniform(0, 0.1), "w0": _GRE_W0}, n=20_000),
        Tissue("mixed", {"R2star": Uniform(20, 200, "log"), "FF": Uniform(0.1, 0.8), "w0": _GRE_W0}, n=20_000),
        Tissue("fat", {"R2star": Uniform(20, 100, "log"), "FF": Uniform(0.8, 1), "w0": _GRE_W0}, n=10_000),
    ),
)
_R2STAR_GRID = Prior(
    "r2star-grid",
    (
        Tissue(
            "all",
            {
                "R2star": Grid(3.0, 600.0, 60, "log"),
                "FF": Grid(-0.05, 1.1, 23),
                "w0": Grid(-200 * math.pi, 200 * math.pi, 81),
            },
        ),
    ),
)

PRESETS = {prior.name: prior for prior in (
    _MAO_MRF_TABLE1, _RELAXATION, _NIST, _MAO_TABLE1, _CRBBASIS, _QMT_TISSUE, _TISSUE_3T, _T2_GRID, _T1_GRID, _T1_T2_W0,
    _GRE_3T, _R2STAR_GRID,
)}  # fmt: skip
"""Table I of the paper for MRF-FISP (`mao-mrf-table1`) and magnetisation transfer (`mao-table1`), what its authors'
public example has for the latter (`crbbasis`), and to fit with: relaxation times without holes (`t1-t2`), those of
vials (`nist`), both pools without holes (`qmt-tissue`). For models of one pool, what they have of T1, T2, B1 and w0 of
tissue, fat and fluid at 3 T (`tissue-3t`), decay, fat fraction and off-resonance of gradient echoes (`gre-3t`), and
grids to fit with that are named by what they resolve (`t1-grid`, `t2-grid`, `t1-t2-w0`,
`r2star-grid`)."""
