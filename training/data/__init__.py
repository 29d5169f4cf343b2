"""Pairs of pictures for training."""
