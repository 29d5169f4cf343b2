"""A real ComfyUI without a screen: fetch.py gets it, server.py runs it with this pack, client.py works with it."""

from .client import ComfyClient, ComfyError, ComfyInterrupted, images
from .fetch import FetchError, cache_folder, fetch_comfyui, find_comfyui, unmet_requirements
from .server import ComfyServer, ServerError

__all__ = [
    "ComfyClient",
    "ComfyError",
    "ComfyInterrupted",
    "ComfyServer",
    "FetchError",
    "ServerError",
    "cache_folder",
    "fetch_comfyui",
    "find_comfyui",
    "images",
    "unmet_requirements",
]
