"""What `exact_bounds.py` and `exact_study.py` begin with: the fold of two thirds of the fingerprints, as in a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crbsvd_plugin import request
from crbsvd_plugin.fold import BasisAccumulator
from crbsvd_plugin.prior import Atoms, split
from crbsvd_plugin.spec import Spec
from crbsvd_plugin.training import Training


@dataclass(frozen=True)
class Folded:
    """A sequence, two thirds of its fingerprints folded, and the others."""

    spec: Spec
    training: Training
    accumulator: BasisAccumulator
    held_out: Sequence[Atoms]


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options of both."""
    found = argparse.ArgumentParser(description=text)
    found.add_argument("folder", type=Path)
    found.add_argument("spec", help="model")
    found.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    found.add_argument("--train", default="20000", help="fingerprints, of which 67 %% train")
    found.add_argument("--checkpoint")
    return found


def folded(options: argparse.Namespace) -> Folded:
    """Simulate and fold the fingerprints."""
    asked = request.Request(spec=options.spec, settings=options.settings, train=options.train)
    spec = asked.resolved()
    prior = request.sized(spec.prior, options.train, "--train", spec.model)
    atoms, held_out = split(prior.atoms(spec.model.parameters))
    training = asked.settled(spec).training(spec.model, atoms)
    return Folded(spec, training, training.run(checkpoint=options.checkpoint), held_out)


def command(script: str, options: argparse.Namespace) -> str:
    """Return the begin of the line that was called, without names of folders."""
    pairs = (setting.partition("=") for setting in options.settings)
    settings = "".join(f" --set {key}={Path(value).name}" for key, _, value in pairs)
    return f"python examples/{script} FOLDER {options.spec}{settings} --train {options.train}"
