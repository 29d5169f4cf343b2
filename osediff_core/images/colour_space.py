"""Colour spaces that a file declares beside its samples without an ICC profile: kept as a profile, or made sRGB.

Numbers are those of ITU-T H.273, which PNG's cICP and AVIF's and HEIF's nclx share; PNG's older gAMA and cHRM and EXIF
say the same in other words. Ordinary spaces become a profile, so that no colour is lost. PQ, HLG and linear light are
converted, as no network knows pictures of that kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

XY = tuple[float, ...]  # x and y of red, green, blue and white

_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
BT709: XY = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65)
_ADOBE: XY = (0.640, 0.330, 0.210, 0.710, 0.150, 0.060, *_D65)
_PRIMARIES: dict[int, tuple[str, XY]] = {
    1: ("BT.709", BT709),
    4: ("BT.470 M", (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, *_C)),
    5: ("BT.601 625", (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65)),
    6: ("BT.601 525", (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65)),
    7: ("SMPTE 240", (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65)),
    8: ("film", (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *_C)),
    9: ("BT.2020", (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65)),
    10: ("XYZ", (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1 / 3, 1 / 3)),
    11: ("DCI-P3", (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351)),
    12: ("Display P3", (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65)),
    22: ("EBU 3213", (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65)),
}
UNSPECIFIED = 2
# Pictures that say BT.709's or BT.601's curve are shown by sRGB's everywhere.
_SRGB, _PQ, _HLG = "sRGB", "PQ", "HLG"
_TRANSFERS: dict[int, str | float] = {
    **dict.fromkeys((1, 6, 7, 11, 12, 13, 14, 15), _SRGB),
    4: 2.2,
    5: 2.8,
    8: 1.0,
    16: _PQ,
    17: 2.6,
    18: _HLG,
}
_NEARLY_LINEAR = 1.4  # exponents below leave the dark half of a picture a few levels
_WHITE = 203.0  # cd/m² of white in an HDR picture (ITU-R BT.2408)
_HLG_PEAK = 1000.0
_KNEE = 0.7  # of white, above which an HDR picture's light is compressed
_CURVE = 4096  # entries of a profile's curve
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class ColourSpace:
    """name: of the space. said_by: where the file says so. transfer: sRGB's, PQ's or HLG's curve, or an exponent."""

    name: str
    said_by: str
    primaries: XY
    transfer: str | float

    @property
    def is_srgb(self) -> bool:
        """Whether it is what is meant without a word."""
        curve = self.transfer == _SRGB or (
            isinstance(self.transfer, float) and abs(self.transfer - 2.2) < 0.03
        )
        return curve and bool(np.allclose(self.primaries, BT709, atol=0.004))


def by_numbers(primaries: int, transfer: int, said_by: str) -> ColourSpace | None:
    """The space of two numbers; None if both are unspecified. Raises ValueError, a clause, for unknown ones."""
    if primaries == transfer == UNSPECIFIED:
        return None
    name, xy = _PRIMARIES.get(1 if primaries == UNSPECIFIED else primaries, ("", ()))
    curve = _TRANSFERS.get(13 if transfer == UNSPECIFIED else transfer)
    if not name or curve is None:
        raise ValueError(f"its colour space ({said_by} {primaries}/{transfer}) is not known and left out")
    words = (
        name if curve == _SRGB else f"{name} {curve}" if isinstance(curve, str) else f"{name} {_power(curve)}"
    )
    return ColourSpace(words, said_by, xy, curve)


def by_gamma(gamma: int | None, chromaticities: tuple[int, ...] | None) -> ColourSpace | None:
    """Of PNG's gAMA (1 / exponent) and cHRM (white, red, green, blue), each times 100,000; None for neither.

    Raises ValueError, a clause, where they are impossible.
    """
    if gamma is None and chromaticities is None:
        return None
    said_by = " and ".join(
        name for name, there in (("gAMA", gamma), ("cHRM", chromaticities)) if there is not None
    )
    xy = BT709
    if chromaticities is not None:
        white, rgb = chromaticities[:2], chromaticities[2:]
        xy = tuple(value / 100_000 for value in (*rgb, *white))
    transfer: str | float = _SRGB if gamma is None else 100_000 / gamma if gamma else 0.0
    if not _possible(xy) or not (transfer == _SRGB or 0.2 <= float(transfer) <= 5):
        raise ValueError(f"the colour space of its {said_by} is impossible and left out")
    name = next((known for known, there in _PRIMARIES.values() if np.allclose(xy, there, atol=0.002)), "")
    name = "Adobe RGB" if np.allclose(xy, _ADOBE, atol=0.002) else name or "primaries of its own"
    words = name if transfer == _SRGB else f"{name}, {_power(float(transfer))}"
    return ColourSpace(words, said_by, xy, transfer)


def adobe_rgb(said_by: str) -> ColourSpace:
    """Adobe RGB (1998)."""
    return ColourSpace("Adobe RGB", said_by, _ADOBE, 563 / 256)


def rendered(
    values: np.ndarray, space: ColourSpace | None, levels: int
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Colours (H, W, 1|3) in [0, 1] of a space -> (colours, profile or None for sRGB, notes).

    levels: of the file's samples, to which converted ones are rounded, so that grey stays grey.
    """
    if space is None or space.is_srgb:
        return values, None, ()
    grey = values.shape[-1] == 1
    convert = isinstance(space.transfer, str) and space.transfer != _SRGB
    convert = convert or (isinstance(space.transfer, float) and space.transfer < _NEARLY_LINEAR)
    named = f"its colours are {space.name} (by {space.said_by})"
    if not convert and not grey:
        return values, _profile(space), (f"{named}, kept as an ICC profile",)
    if grey and space.transfer in (_SRGB, 2.2):
        return values, None, ()
    light = _light(values.astype(np.float64), space)
    if not grey:
        light = light @ (_to_xyz(space.primaries).T @ np.linalg.inv(_to_xyz(BT709)).T)
    hdr = space.transfer in (_PQ, _HLG)
    if hdr:
        light = _compressed(light)
    encoded = np.rint(_srgb_encoded(np.clip(light, 0, 1)) * levels) / levels
    how = ", highlights compressed" if hdr else ""
    return encoded.astype(np.float32), None, (f"{named} and converted to sRGB{how}",)


def _power(exponent: float) -> str:
    return "linear light" if abs(exponent - 1) < 0.01 else f"gamma {exponent:.2g}"


def _light(values: np.ndarray, space: ColourSpace) -> np.ndarray:
    """Samples -> linear light, 1 for white."""
    if space.transfer == _SRGB:
        return _srgb_decoded(values)
    if space.transfer == _PQ:  # SMPTE ST 2084
        root = values ** (1 / 78.84375)
        return (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125) * (
            10_000 / _WHITE
        )
    if space.transfer == _HLG:  # ARIB STD-B67, with the system gamma of a display of 1000 cd/m²
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593]) if values.shape[-1] == 3 else scene[..., 0]
        return scene * np.maximum(luminance, 1e-9)[..., None] ** 0.2 * (_HLG_PEAK / _WHITE)
    return values ** float(space.transfer)


def _compressed(light: np.ndarray) -> np.ndarray:
    """Light above white into the range below it; what is darker than the knee stays."""
    peak = light.max(-1, keepdims=True)
    if peak.max() <= 1:
        return light
    room = 1 - _KNEE
    over = _KNEE + room * (1 - np.exp(-(np.maximum(peak, _KNEE) - _KNEE) / room))
    return light * np.where(peak > _KNEE, over / np.maximum(peak, _KNEE), 1.0)


def _srgb_decoded(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb_encoded(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _possible(xy: XY) -> bool:
    """Whether the primaries span a triangle, with a white that has light."""
    points = np.reshape(xy, (4, 2))
    (red, green, blue), white = points[:3], points[3]
    area = (green[0] - red[0]) * (blue[1] - red[1]) - (green[1] - red[1]) * (blue[0] - red[0])
    return bool((points >= 0).all() and (points <= 1.5).all() and abs(area) > 1e-3 and white[1] > 0.01)


def _to_xyz(xy: XY) -> np.ndarray:
    """RGB -> XYZ under D65, by Bradford's adaptation where white is another."""
    points = np.reshape(xy, (4, 2))
    upright = np.column_stack(
        [points[:, 0], points[:, 1], 1 - points.sum(1)]
    ).T  # columns: red, green, blue, white
    white = upright[:, 3] / points[3, 1]
    matrix = upright[:, :3] * np.linalg.solve(upright[:, :3], white)
    d65 = np.array([_D65[0] / _D65[1], 1.0, (1 - sum(_D65)) / _D65[1]])
    adapt = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ d65) / (_BRADFORD @ white)) @ _BRADFORD
    return adapt @ matrix


def _profile(space: ColourSpace) -> bytes:
    """The space as an ICC profile."""
    import imagecodecs

    xy = [[*map(float, point), 1.0] for point in np.reshape(space.primaries, (4, 2))]
    white, primaries = xy[3], [*xy[0], *xy[1], *xy[2]]
    if isinstance(space.transfer, float):
        return imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=space.transfer)
    curve = _srgb_decoded(np.linspace(0, 1, _CURVE)).astype(np.float32)
    return imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, transferfunction=curve)
