"""Losses beyond the paper's, one file each."""
