"""The lines of other programs, and of this one, that take a basis to images and maps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import models
from .advice import Choice
from .errors import UserError

UNKNOWN = "SPEC"
"""Stands for a sequence that no name tells."""


def spec_of(model: Mapping[str, Any] | None) -> str:
    """Return the name of a built-in model whose defaults the spec of a sequence has, or `UNKNOWN`."""
    name = None if model is None else model.get("name")
    if name not in models.names():
        return UNKNOWN
    try:
        same = models.build({"name": name}).spec == model
    except UserError:
        return UNKNOWN  # it has settings without defaults
    return str(name) if same else UNKNOWN


def lines(name: str | None, spec: str, choice: Choice | None) -> dict[str, str]:
    """Return titles and the lines below them.

    Parameters
    ----------
    name : str, optional
        The basis; not given: NAME, and the line that makes it comes first.
    spec : str
        What the line that makes it is given, see `spec_of`.
    choice : Choice, optional
        Rank and weight that this line is given.
    """
    path = Path("NAME" if name is None else name)
    basis, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
    found = {}
    if name is None:
        options = f" --rank {choice.rank} --crb-weight {choice.crb_weight:g}" if choice is not None else ""
        title = "Make the basis" if spec != UNKNOWN else f"Make the basis ({UNKNOWN}: what the results were made for)"
        found[title] = f"crbsvd basis {spec}{options} -o {basis}"
    return found | {
        "BART, and maps from its coefficients (ksp: 1 RO SPK COIL 1 T)": (
            f"bart pics -l2 -r0.001 -w1 -t traj -B {basis} ksp sens coeff\n"
            f"crbsvd fit coeff {basis} --like scan.h5 -o maps"
        ),
        "SigPy (ksp: coils, readouts, samples; traj in cycles per field of view; frame of every readout)": (
            "import sigpy\nimport crbsvd_plugin as crb\nfrom crbsvd_plugin.recon.sigpy_app import root_weighted\n\n"
            f"basis = crb.Basis.load({str(path)!r})\n"
            "operator = crb.SubspaceOperator(traj, frame=frame, phi=basis.phi, sens=sens)\n"
            "linop = crb.as_linop(operator)  # sqrt(W) A, with .H and a fast .N\n"
            "coeff = sigpy.app.LinearLeastSquares(linop, root_weighted(operator, ksp), lamda=0.001).run()"
        ),
        "Here, from raw data to maps": f"crbsvd maps scan.h5 {basis} -o maps",
        "A pipe, as gadgetron --from_stream and Tyger have it": (
            f"crbsvd stream {basis} < scan.ismrmrd > maps.ismrmrd"
        ),
        f'Scanners (FIRE, OpenRecon), which ask for {{"parameters": {{"basis": "{path.name}"}}}}': (
            f"crbsvd serve --bases {folder} --host 0.0.0.0"
        ),
        "Gadgetron: the gadget that the chain crbsvd_connect.xml expects": (
            f"python -m crbsvd_gadgets.gadgetron_external --bases {folder} --port 18000"
        ),
    }
