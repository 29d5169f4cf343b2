"""The picture that each frame of a LATENT shows, found again by the latents themselves.

ComfyUI's nodes hand on entries of a LATENT that they do not know, or leave them out, whatever they do to the tensor:
an entry alone would give a picture another one's colours. So a source knows the latents that show it, by hash.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..osediff_core.errors import some_of
from .notices import warn

_KEY = "osediff"


@dataclass(frozen=True, eq=False)
class EncodedFrom:
    """The source of one frame, so that decoding needs no wires for it.

    size: (height, width) in pixels, before padding. padded: after it. reference: the enlarged input, an IMAGE
    (1, H, W, 3). alpha: (1, 1, H, W) at the same size, or None. frame: its number in the batch that was encoded.
    shown_by: hashes of the latents that show it, those of the input and those that samplers made of them.
    """

    size: tuple[int, int]
    padded: tuple[int, int]
    reference: Tensor
    alpha: Tensor | None
    frame: int
    shown_by: set[str] = field(default_factory=set)


Sources = Sequence[EncodedFrom | None]

# In the order of their making. LATENTs own them: what no LATENT in ComfyUI's cache has is forgotten.
_alive: weakref.WeakValueDictionary[int, EncodedFrom] = weakref.WeakValueDictionary()


def encoded(samples: Tensor, sources: Sequence[EncodedFrom]) -> dict[str, Any]:
    """A LATENT of samples (B, C, h, w) that show these sources, one for each frame."""
    for source in sources:
        _alive[id(source)] = source
    note_shown(samples, sources)
    return with_sources({"samples": samples}, sources)


def with_sources(latent: dict[str, Any], sources: Sources) -> dict[str, Any]:
    """The LATENT that owns these sources, those that are None left out, and no others."""
    owned = tuple(source for source in sources if source is not None)
    rest = {key: value for key, value in latent.items() if key != _KEY}
    return {**rest, _KEY: owned} if owned else rest


def note_shown(samples: Tensor, sources: Sources) -> None:
    """These frames show the sources from now on, too: for what changes latents but not the place of anything."""
    for source, shown in zip(sources, _hashes(samples), strict=True):
        if source is not None:
            source.shown_by.add(shown)


def sources_of(latent: dict[str, Any]) -> list[EncodedFrom | None]:
    """The source of each frame, None where the latents are not as Encode LQ or a sampler behind it left them.

    Frames may have been picked, repeated, put in another order or joined with those of another LATENT.
    """
    own = latent.get(_KEY, ())
    showing: defaultdict[str, list[EncodedFrom]] = defaultdict(list)
    for source in [*own, *reversed([*_alive.values()])]:
        for shown in source.shown_by:
            showing[shown].append(source)
    numbers, used, found = dict(enumerate(latent.get("batch_index") or ())), Counter(), []
    for frame, shown in enumerate(_hashes(latent["samples"])):
        number = numbers.get(frame, frame)

        def rank(source: EncodedFrom, number: int = number) -> tuple[bool, bool, int]:
            """Pictures of the same latents may differ in alpha: the numbers of the frames tell them apart."""
            another = source.frame != number
            return another, another and source not in own, used[source]

        source = min(showing[shown], key=rank, default=None)
        used[source] += 1
        found.append(source)
    return found


def warn_of_changed(latent: dict[str, Any], sources: Sources) -> None:
    """Says which frames of a LATENT of Encode LQ show nothing that is known any more."""
    changed = [str(frame + 1) for frame, source in enumerate(sources) if source is None]
    if changed and (_KEY in latent or len(changed) < len(sources)):
        frames = "" if len(sources) == 1 else f" (frame {some_of(changed)} of {len(sources)})"
        warn(
            f"Another node changed, mixed or made the latents{frames} that came from Encode LQ: the input's crop, "
            "colours and alpha are left out; connect a reference for the colours, or do it to the decoded picture."
        )


def follow_sampling(model: ModelPatcher) -> None:
    """Have every sampler of this MODEL say what its result shows: that which its latents did."""
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    if not model.get_wrappers(kind, _KEY):
        model.add_wrapper_with_key(kind, _KEY, _sample)


def _sample(
    executor: Callable[..., Tensor], noise: Tensor, latent_image: Tensor, *args: object, **kwargs: object
) -> Tensor:
    sampled = executor(noise, latent_image, *args, **kwargs)
    if sampled.shape == latent_image.shape:
        note_shown(sampled, sources_of({"samples": latent_image}))
    return sampled


def _hashes(samples: Tensor) -> list[str]:
    """Of each frame (C, h, w), in half precision: ComfyUI may keep results in it between two nodes."""
    frames = samples.detach().to("cpu", torch.float16).contiguous()
    shape = repr(tuple(frames.shape[1:])).encode()
    return [hashlib.sha256(shape + frame.numpy().tobytes()).hexdigest() for frame in frames]
