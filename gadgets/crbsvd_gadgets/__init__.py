"""Adapters between crbsvd_plugin and scanner-side programs (Gadgetron, FIRE): no science in here.

The adapters come with the issue on online reconstruction; until then this package is empty.
"""
