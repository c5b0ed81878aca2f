"""Tissue parameters from coefficient images."""
