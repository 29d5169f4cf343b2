"""Tiles for large images: overlapping and blended for the UNet, exact for the VAE (`vae/`)."""
