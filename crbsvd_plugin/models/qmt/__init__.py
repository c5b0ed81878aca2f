"""Quantitative magnetisation transfer: two pools, of which the semi-solid one follows the generalized Bloch model."""
