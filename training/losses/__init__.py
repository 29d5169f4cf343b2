"""Losses beyond the paper's, one file each, and the balance of their gradients."""
