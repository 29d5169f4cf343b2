"""ComfyUI MODEL, CLIP and VAE behind the ports of the core."""
