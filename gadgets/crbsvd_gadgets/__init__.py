"""Adapters between crbsvd_plugin and scanner-side programs (Gadgetron, FIRE): no science in here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crbsvd_plugin.settings import Site


def site_of_environment(*names: str) -> Site:
    """Return what whoever started the host program lays down: ``CRBSVD_BASES`` (folder), ``CRBSVD_CONFIG`` (TOML).

    `names` are further presets, without settings: what a host must say to get this adapter.

    Raises
    ------
    UserError
        A file or folder cannot be read.
    """
    from dataclasses import replace

    from crbsvd_plugin.settings import Site

    site = Site.load(os.environ.get("CRBSVD_CONFIG"), os.environ.get("CRBSVD_BASES"))
    return replace(site, presets={**{name: {} for name in names}, **site.presets})
