"""Sizes and resampling: target size, bicubic resize, padding to a multiple, colour under full transparency.

All images are float tensors (B, C, H, W); nothing here depends on the value range unless said.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .errors import ImageError, OptionError

# Beyond this the float copies of one picture alone need tens of gigabytes; a typing slip is likelier than a wish.
MAX_PIXELS = 2**29


def target_size(
    width: int, height: int, scale: float | None = None, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The output size (width, height): `size` if given, else each side times `scale`, half up, at least 1 pixel.

    Raises OptionError if both or neither are given, a value is not positive, or the result exceeds MAX_PIXELS.
    """
    if size is not None and scale is None:
        if min(size) < 1:
            raise OptionError(f"The target size {size[0]}x{size[1]} must be at least 1x1 pixels.")
        target = size
    elif scale is not None and size is None:
        if not (math.isfinite(scale) and scale > 0):
            raise OptionError(f"The scale factor {scale} must be a number above 0, for example 4 or 2.5.")
        if max(width, height) * scale > MAX_PIXELS:  # keeps int() away from huge floats
            raise OptionError(
                f"A {width}x{height} image times {scale:g} is too large; choose a smaller scale."
            )
        target = (max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5)))
    else:
        raise OptionError("Give either a scale factor or a target size, not both and not neither.")
    if target[0] * target[1] > MAX_PIXELS:
        raise OptionError(
            f"The result would be {target[0]}x{target[1]} pixels, above the limit of {MAX_PIXELS // 10**6} "
            "megapixels; choose a smaller scale or size."
        )
    return target


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Antialiased bicubic resampling of (B, C, H, W) to `size` = (width, height), like PIL's BICUBIC.

    It agrees with PIL's mode "F" (float) to 1e-5.
    Overshoot at edges is not clipped, see `resize_clipped`. fp32 arithmetic, differentiable.
    """
    width, height = size
    if image.shape[-2:] == (height, width):
        return image
    # antialias=True selects PIL's kernel (a = -0.5, support widened when shrinking); otherwise torch
    # takes a = -0.75
    resized = F.interpolate(image.float(), size=(height, width), mode="bicubic", antialias=True)
    return resized.to(image.dtype)


def resize_clipped(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`resize` for values in [0, 1] that stay there: (B, C, H, W) -> (B, C, height, width).

    The official code lets PIL enlarge the 8-bit image: first along x, then along y, rounded and clipped after
    each. The clipping matters (several levels beside black and white edges) and is done here too; the
    rounding does not (about one level), and without it 16-bit input loses nothing.
    """
    return resize(resize(image, (size[0], image.shape[-2])).clamp(0, 1), size).clamp(0, 1)


def enlarge(
    rgb: torch.Tensor, alpha: torch.Tensor | None, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Colours and alpha at their final size = (width, height), ready to be encoded.

    rgb (B, 3, H, W), alpha (B, 1, H, W) or None, in [0, 1] -> the same at (height, width), in [0, 1]. What
    full transparency hides takes the colours around it first.
    """
    if alpha is None:
        return resize_clipped(rgb, size), None
    return resize_clipped(fill_transparent(rgb, alpha), size), resize_clipped(alpha, size)


def reflected(length: int, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Positions `start` ... `stop` - 1 of an endless side as indices into one of `length`: … 2 1 0 1 … n-1 n-2 ….

    Reflection without repeating the edge, as far as one likes; a side of one pixel repeats itself.
    """
    if length == 1:
        return torch.zeros(stop - start, dtype=torch.long, device=device)
    period = 2 * (length - 1)
    index = torch.arange(start, stop, device=device) % period
    return torch.minimum(index, period - index)


def pad_to_multiple(image: torch.Tensor, multiple: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Pads (B, C, H, W) at the right and bottom so that both sides are multiples of `multiple`.

    Works by reflection, repeated as often as needed (torch's own reflect padding stops at size - 1); a side
    of one pixel is replicated. Returns the padded image and the original (height, width) for `crop_back`.
    Raises ImageError for an image without pixels.
    """
    height, width = image.shape[-2:]
    if height < 1 or width < 1:
        raise ImageError(f"The image has no pixels ({width}x{height}); give one of at least 1x1.")
    new_height, new_width = -(-height // multiple) * multiple, -(-width // multiple) * multiple
    padded = image
    if new_height != height:
        padded = padded.index_select(-2, reflected(height, 0, new_height, image.device))
    if new_width != width:
        padded = padded.index_select(-1, reflected(width, 0, new_width, image.device))
    return padded, (height, width)


def crop_back(image: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    """Undoes `pad_to_multiple`: (B, C, H', W') -> (B, C, *crop), the top left part."""
    return image[..., : crop[0], : crop[1]]


def fill_transparent(rgb: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Gives fully transparent pixels the colour of the visible ones around them; all others stay as they are.

    rgb (B, 3, H, W), alpha (B, 1, H, W) in [0, 1] -> (B, 3, H, W). The colour stored under alpha 0 is
    arbitrary (mostly black): left in place it would bleed into visible borders when resized, and the network
    would see an edge that nobody can see. Colours are averaged with alpha as weight over ever larger squares
    (a push-pull pyramid). An image without any visible pixel is returned unchanged.
    """
    if bool((alpha > 0).all()) or not bool((alpha > 0).any()):
        return rgb
    height, width = rgb.shape[-2:]
    if height == 1 and width == 1:
        return rgb
    # ceil_mode covers odd sides; the implied divisor is the same in numerator and weight, so it cancels
    weight = F.avg_pool2d(alpha, 2, ceil_mode=True)
    colour = F.avg_pool2d(rgb * alpha, 2, ceil_mode=True) / weight.clamp_min(1e-12)
    coarse = fill_transparent(colour, weight)
    around = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(alpha > 0, rgb, around)
