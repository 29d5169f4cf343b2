"""Conditioning that lies in the picture (areas, masks, control hints, boxes), as a frame or a tile of it sees it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import comfy.conds
import comfy.controlnet
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...osediff_core.tiles.grid import Tile

Cond = dict[str, Any]
Control = comfy.controlnet.ControlBase


def acts(cond: Cond, latents: Tensor, sigma: Tensor, frame: int = 0) -> tuple[Tile, Tensor] | None:
    """Its area, and how much it acts at each place (h, w), the area's soft edges included; None: not at this sigma.

    latents (1, C, h, w); sigma (1,). frame: which of several masks counts.
    """
    plain = {name: cond[name] for name in cond if name != "gligen"}  # which would set itself up
    plain |= {"model_conds": {}}
    if cond.get("mask") is not None:
        plain["mask"] = _one_of(cond["mask"], frame)
    part = comfy.samplers.get_area_and_mult(plain, latents, sigma)
    if part is None:
        return None
    height, width, top, left = part.area or (*latents.shape[-2:], 0, 0)
    area = Tile(top, left, height, width)
    mult = latents.new_zeros(latents.shape[-2:])
    mult[area.window] = part.mult[0, 0]
    return area, mult


def what_cannot_follow(guider: comfy.samplers.CFGGuider) -> list[str]:
    """What of the guider's conditioning is of a kind that cannot be cropped to tiles, in words."""
    found = []
    for cond in _all(guider):
        foreign = _foreign(cond.get("control"))
        if foreign is not None:
            found.append(f"a control of another pack ({type(foreign).__name__})")
        kind = (cond.get("gligen") or ["position"])[0]
        if kind != "position":
            found.append(f"GLIGEN of the kind {kind}")
    return list(dict.fromkeys(found))


def has_several_masks(guider: comfy.samplers.CFGGuider) -> bool:
    """Whether a mask of the guider's conditioning is a batch, one for each frame."""
    return any(cond["mask"].shape[0] > 1 for cond in _all(guider) if cond.get("mask") is not None)


@contextmanager
def conds_of_frame(guider: comfy.samplers.CFGGuider, frame: int, frames: int) -> Iterator[None]:
    """Inside this context the guider's conditioning is that of one frame: its own prompt, hint and mask of several."""
    if frames == 1:
        yield
        return
    controls: dict[int, Control] = {}  # positive and negative share theirs
    with _conds_as(guider, lambda cond: _of_frame(cond, frame, controls)):
        yield


def follow_tiles(
    guider: comfy.samplers.CFGGuider, latents: Tensor, sigma: Tensor
) -> Callable[[Tile], AbstractContextManager[None]] | None:
    """on(tile): inside this context the guider's conditioning is the tile's part of it.

    latents (1, C, h, w): a frame, whole; sigma (1,). None where the conditioning is the same everywhere.
    """
    if not any(_lies_somewhere(cond) for cond in _all(guider)):
        return None
    acting = {id(cond): acts(cond, latents, sigma) for cond in _all(guider)}
    hints: dict[tuple[int, int, int], list[Tensor]] = {}  # each at the size of what it is laid over

    def on(tile: Tile) -> AbstractContextManager[None]:
        controls: dict[tuple[int, Tile, Tile], Control] = {}  # positive and negative share theirs

        def part(cond: Cond) -> Cond | None:
            found = acting[id(cond)]
            return None if found is None else _on_tile(cond, *found, tile, control_part)

        def control_part(control: Control, area: Tile, seen: Tile) -> Control:
            key = (id(control), area, seen)
            if key not in controls:
                before = control.previous_controlnet
                before = None if before is None else control_part(before, area, seen)
                controls[key] = _control_part(control, before, area, seen, hints)
            return controls[key]

        return _conds_as(guider, part)

    return on


def _all(guider: comfy.samplers.CFGGuider) -> list[Cond]:
    return [cond for conds in getattr(guider, "conds", {}).values() for cond in conds]


@contextmanager
def _conds_as(guider: comfy.samplers.CFGGuider, change: Callable[[Cond], Cond | None]) -> Iterator[None]:
    kept = getattr(guider, "conds", None)
    if kept is None:
        yield
        return
    guider.conds = {
        name: [changed for cond in conds if (changed := change(cond)) is not None]
        for name, conds in kept.items()
    }
    try:
        yield
    finally:
        guider.conds = kept


def _lies_somewhere(cond: Cond) -> bool:
    shaped = any(isinstance(part, comfy.conds.CONDNoiseShape) for part in cond["model_conds"].values())
    return shaped or any(cond.get(name) is not None for name in ("area", "mask", "control", "gligen"))


def _on_tile(
    cond: Cond,
    area: Tile,
    mult: Tensor,
    tile: Tile,
    control_part: Callable[[Control, Tile, Tile], Control],
) -> Cond | None:
    """The conditioning for a tile of the latents; None where it does not act there. area, mult: of `acts`."""
    seen = _common(area, tile)
    mask = mult[tile.window]
    if seen is None or not ("default" in cond or bool(mask.any())):
        return None
    out = dict(cond)
    if cond.get("area") is not None or cond.get("mask") is not None:
        # as a mask, since ComfyUI would give the part of an area that is in the tile soft edges of its own
        out |= {"mask": mask[None], "mask_strength": 1.0, "strength": 1.0}
    if cond.get("area") is not None:
        out["area"] = (seen.height, seen.width, seen.y - tile.y, seen.x - tile.x)
    if cond.get("gligen") is not None:
        kind, model, boxes = cond["gligen"]
        out["gligen"] = (kind, model, [part for box in boxes if (part := _box_part(box, area, seen))])
    if cond.get("control") is not None:
        out["control"] = control_part(cond["control"], area, seen)
    out["model_conds"] = {
        name: part._copy_with(part.cond[(..., *tile.window)])
        if isinstance(part, comfy.conds.CONDNoiseShape)
        else part
        for name, part in cond["model_conds"].items()
    }
    return out


def _common(one: Tile, other: Tile) -> Tile | None:
    """What two rectangles have in common."""
    y, x = max(one.y, other.y), max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - y
    width = min(one.x + one.width, other.x + other.width) - x
    return Tile(y, x, height, width) if height > 0 and width > 0 else None


def _box_part(box: tuple[Tensor, int, int, int, int], area: Tile, seen: Tile) -> tuple[object, ...] | None:
    """GLIGEN's box (embedding, height, width, top, left), which is counted from its area's corner, in a part of it."""
    embedding, height, width, top, left = box
    part = _common(Tile(area.y + top, area.x + left, height, width), seen)
    return part and (embedding, part.height, part.width, part.y - seen.y, part.x - seen.x)


def _chain(control: Control | None) -> Iterator[Control]:
    """The control and those before it."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def _hints(control: Control) -> list[Tensor]:
    """Its picture, and what is laid beside that: each (B, C, H, W), in pixels."""
    return [cast("Tensor", control.cond_hint_original), *control.extra_concat_orig]


def _with_hints(control: Control, before: Control | None, hints: list[Tensor]) -> Control:
    """A copy that is as ready to run; ComfyUI's own `copy` would have to be made ready again."""
    out = copy.copy(control)
    out.previous_controlnet = before
    out.cond_hint_original, *out.extra_concat_orig = hints
    out.cond_hint = None
    out.multigpu_clones = {
        device: _with_hints(clone, before, hints) for device, clone in control.multigpu_clones.items()
    }
    return out


def _control_part(
    control: Control,
    before: Control | None,
    area: Tile,
    seen: Tile,
    hints: dict[tuple[int, int, int], list[Tensor]],
) -> Control:
    """The control for what is seen of the area that its hint is laid over, at `compression_ratio` pixels a latent."""
    if control.global_average_pooling:  # it says something of the whole picture
        return _with_hints(control, before, _hints(control))
    ratio = int(control.compression_ratio)
    if control.vae is not None:
        ratio *= int(control.vae.spacial_compression_encode())
    key = (id(control), area.height, area.width)
    if key not in hints:
        hints[key] = [
            comfy.utils.common_upscale(
                plane, area.width * ratio, area.height * ratio, control.upscale_algorithm, "center"
            )
            for plane in _hints(control)
        ]
    window = Tile(
        *(side * ratio for side in (seen.y - area.y, seen.x - area.x, seen.height, seen.width))
    ).window
    return _with_hints(control, before, [plane[(..., *window)] for plane in hints[key]])


def _one_of(several: Tensor, frame: int) -> Tensor:
    """The frame's own (1, ...) of a batch, which begins anew where it is shorter than the frames."""
    index = frame % several.shape[0]
    return several[index : index + 1]


def _of_frame(cond: Cond, frame: int, controls: dict[int, Control]) -> Cond:
    def narrow(part: comfy.conds.CONDRegular) -> comfy.conds.CONDRegular:
        if isinstance(part, comfy.conds.CONDConstant) or not torch.is_tensor(part.cond):
            return part
        return part if part.cond.shape[0] == 1 else part._copy_with(_one_of(part.cond, frame))

    def control_of(control: Control | None) -> Control | None:
        if control is None:
            return None
        if id(control) not in controls:
            hints = [_one_of(plane, frame) for plane in _hints(control)]
            before = control_of(control.previous_controlnet)
            controls[id(control)] = _with_hints(control, before, hints)
        return controls[id(control)]

    out = {**cond, "model_conds": {name: narrow(part) for name, part in cond["model_conds"].items()}}
    if cond.get("mask") is not None:
        out["mask"] = _one_of(cond["mask"], frame)
    if not _foreign(cond.get("control")):
        out["control"] = control_of(cond.get("control"))
    return out


def _foreign(control: Control | None) -> Control | None:
    """The first of the chain that is another pack's, which keeps more than hints, and elsewhere."""
    return next((one for one in _chain(control) if type(one).__module__ != "comfy.controlnet"), None)
