"""Graphs in the API format that several tests queue."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]  # the repository


def stock(title="Save Image", prefix="stock"):
    """A graph of ComfyUI's own nodes that takes no time."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0xFF8000},
        },
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix},
            "_meta": {"title": title},
        },
    }


def long_stock(steps=200):
    """A graph of ComfyUI's own nodes that takes a minute: enlargements in a row."""
    graph = {"0": {**stock()["1"], "_meta": {"title": "First"}}}
    for step in range(1, steps + 1):
        inputs = {"upscale_method": "lanczos", "width": 2048 + step, "height": 2048, "crop": "disabled"}
        graph[str(step)] = {"class_type": "ImageScale", "inputs": {"image": [str(step - 1), 0], **inputs}}
    graph["preview"] = {"class_type": "PreviewImage", "inputs": {"images": [str(steps), 0]}}
    return graph


def with_photo(graph, name):
    """The graph itself, its Load Image set to an uploaded image."""
    next(node for node in graph.values() if node["class_type"] == "LoadImage")["inputs"]["image"] = name
    return graph


def by_class(graph, class_type):
    """The inputs of the graph's only node of that class."""
    (node,) = (node for node in graph.values() if node["class_type"] == class_type)
    return node["inputs"]


def load_png(content):
    """uint8 (H, W, 3 or 4) of a PNG file's content."""
    return np.asarray(Image.open(io.BytesIO(content)))
