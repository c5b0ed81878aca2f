"""Slow, plain and independent calculations that the package is compared with.

Nothing here imports `crbsvd_plugin`: a reference that shares code with what it judges proves nothing.
"""
