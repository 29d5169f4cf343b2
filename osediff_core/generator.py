"""The OSEDiff generator: a low-quality image becomes a restored one in a single diffusion step.

z_L = s E(x_L)
z_H = (z_L - sigma_T eps(z_L; T, c_y)) / alpha_T     (paper eq. 1; the LQ latent itself is z_T)
x_H = D(z_H / s), clamped to [-1, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import BaseModelError, CheckpointError, ImageError, OptionError
from .fidelity import levers
from .geometry import crop_back, pad_to_multiple
from .moments import split as split_moments
from .ports import LatentCodec, NoisePredictor, PromptEncoder
from .runtime.device import parse_device, parse_dtype, run_stage
from .schedule import NoiseSchedule
from .tiles.unet import Progress, UNetTiling, predict
from .tiles.vae import AUTO, VAETiling, run

if TYPE_CHECKING:
    from .backends.find_base import Source
    from .backends.speed import Speed
    from .weights.merge import MergedAdapter
    from .weights.one_step_weights import OSEDiffWeights

_BASE_KINDS = ("sd_checkpoint", "diffusers_folder")  # of identify.Identity


class OneStepGenerator:
    """Encode, denoise once, decode.

    What goes into the networks is made contiguous first: resizing gives channels-last images, that layout spreads
    through a network, and PyTorch's group norm of it on the CPU is off by up to 7e-4 (in any other layout 1e-6).
    In half precision the networks go over to it by themselves (speed.py).

    The verbs can be differentiated (training calls them); `restore` chains them without gradients. Latents
    are scaled by vae.scaling_factor. Without gradients, a stage that gives NaN or infinity in half precision
    is run again in fp32. The verbs raise OutOfMemory and NonFiniteError besides what they say.

    A port may be None where no verb that needs it is called, as in a graph whose nodes do one step each.
    timestep: T, the schedule's last one if not given (999 for Stable Diffusion).
    adapters: merged OSEDiff weights by part ("unet", "vae"), whose strength `set_strength` changes; it
    also sets `step`, how much of the step is taken, which is all of it otherwise.
    """

    def __init__(
        self,
        vae: LatentCodec | None,
        unet: NoisePredictor | None,
        text: PromptEncoder | None,
        schedule: NoiseSchedule,
        timestep: int | None = None,
        adapters: Mapping[str, MergedAdapter] | None = None,
    ) -> None:
        self.vae = vae
        self.unet = unet
        self.text = text
        self.schedule = schedule
        self.timestep = schedule.num_timesteps - 1 if timestep is None else timestep
        self.adapters = dict(adapters or {})
        self.step = 1.0
        if not 0 <= self.timestep < schedule.num_timesteps:
            raise OptionError(
                f"Timestep {timestep} is outside the schedule's 0 to {schedule.num_timesteps - 1}; use "
                "weights and a base that belong together."
            )

    @classmethod
    @torch.inference_mode(False)  # weights that are loaded within an inference mode serve outside of it, too
    def load(
        cls,
        base: str | Path = "tiny",
        weights: str | Path | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        strength: float | tuple[float, float] = 1.0,
        fidelity: float = 0.0,
        keep_base: bool = True,
        allow_download: bool = False,
        revision: str | None = None,
        speed: Speed | None = None,
    ) -> OneStepGenerator:
        """Load a base model and merge OSEDiff weights into it.

        base: a diffusers folder, a single-file Stable Diffusion checkpoint, a hub id, or "tiny".
        weights: an official .pkl or our .safetensors; None takes the base's own, if it has some.
        dtype: auto, fp32, fp16, bf16; what is merged is merged in fp32 and then rounded to it.
        device: auto, cpu, cuda, mps, xpu.
        strength: of the weights, for UNet and VAE alike or as (unet, vae); 1 is the official result, 0 none.
        fidelity: as in `set_fidelity`; its strengths are multiplied with `strength`.
        keep_base: keep the base's values of the adapted tensors, so that the strength can be changed later.
            They stay in the base's file, which must then not be overwritten, and cost no memory; only those
            of a torch file older than 2020 cost up to the UNet's size, in system memory.
        allow_download, revision: for hub ids.
        speed: what makes it faster; the defaults cost nothing.
        Raises BaseModelError, CheckpointError or OptionError, each before any network is changed.
        """
        from .backends.find_base import find_base
        from .backends.load_base import load_base
        from .backends.speed import Speed, apply_speed, fold_timestep
        from .weights.merge import merge_weights

        device = parse_device(device)
        dtype = parse_dtype(dtype, device)
        chosen = levers(fidelity)
        for_unet, for_vae = (strength, strength) if isinstance(strength, int | float) else strength
        source = find_base(base, allow_download, revision)
        osediff = _weights_for(source, weights)
        loaded = load_base(source, None, "cpu", prediction_type=osediff.prediction_type)
        _check_timestep(osediff, loaded.schedule)
        speed = speed or Speed()
        if speed.fold_timestep:
            fold_timestep(loaded.unet.module, osediff.timestep)
        unet, vae = merge_weights(
            osediff,
            loaded.unet.module,
            loaded.vae.module,
            strength=(for_unet * chosen.unet, for_vae * chosen.vae),
            keep_base=keep_base,
            dtype=dtype,
        )
        for part in (loaded.unet, loaded.vae, loaded.text):
            part.to(device, dtype)
        apply_speed(speed, loaded.unet.module, loaded.vae.module, dtype, device)
        adapters = {"unet": unet, "vae": vae}
        generator = cls(loaded.vae, loaded.unet, loaded.text, loaded.schedule, osediff.timestep, adapters)
        generator.set_strength(step=chosen.step)
        return generator

    def set_strength(
        self, unet: float | None = None, vae: float | None = None, step: float | None = None
    ) -> None:
        """Change the strength of the OSEDiff weights, and of the step itself; None leaves a part as it is.

        unet, vae: 0 gives the base model, 1 the official result; in between and beyond, the weights are interpolated.
        step: 1 takes the restored latents, 0 leaves those of the input, in between they are blended.
        Raises OptionError if the weights were merged for good (keep_base=False) or if there are none.
        """
        if step is not None:
            self.step = step
        for part, strength in (("unet", unet), ("vae", vae)):
            if strength is None:
                continue
            if part not in self.adapters:
                raise OptionError(
                    f"No OSEDiff weights are merged into the {part}; load the generator with weights."
                )
            self.adapters[part].strength = strength

    def set_fidelity(self, fidelity: float) -> None:
        """Set all strengths by one slider: -1 more detail, 0 as trained, 1 nothing but the input (levers.py).

        Raises OptionError as `set_strength` does, and outside [-1, 1].
        """
        self.set_strength(**levers(fidelity)._asdict())

    def encode(
        self,
        lq: Tensor,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        posterior_noise: Tensor | None = None,
        *,
        tiling: VAETiling = AUTO,
        progress: Progress | None = None,
    ) -> Tensor:
        """LQ image -> scaled latents z_L, fp32.

        lq (B, 3, H, W) in [-1, 1], H and W multiples of f = vae.downscale -> (B, C, H/f, W/f).
        The posterior's mode is taken; with sample_posterior, a draw from it (as the official code does,
        unseeded). The draw uses `generator`, on that generator's device, so that a CPU seed means the same
        everywhere; or posterior_noise, standard normal, of the latents' shape.
        tiling: how the VAE is tiled; by default where the image whole would need too much memory or its attention
        minutes. progress(done, total): called as tiles are done; it may raise to stop the work.
        Raises ImageError if the shape does not suit, OptionError for tiles while training, OutOfDisk.
        """
        self._check_image(lq)
        lq = lq.contiguous()

        def whole() -> Tensor:
            mean, logvar = self.vae.encode(lq)
            return torch.cat([mean.float(), logvar.float()], dim=1)

        def stage() -> Tensor:
            network = self.vae.encoder(*lq.shape[-2:])
            moments = whole() if network is None else run("encode", network, lq, whole, tiling, progress)
            return torch.cat(split_moments(moments, self.vae.latent_channels))

        mean, logvar = run_stage("encode", self.vae, stage).chunk(2)
        if sample_posterior or posterior_noise is not None:
            if posterior_noise is None:
                where = mean.device if generator is None else generator.device
                posterior_noise = torch.randn(mean.shape, generator=generator, device=where)
            mean = mean + torch.exp(0.5 * logvar) * posterior_noise.to(mean)
        return mean * self.vae.scaling_factor

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """B prompts -> prompt_embeds (B, 77, D), without gradients."""
        return run_stage("prompt", self.text, lambda: self.text(prompts))

    def denoise(
        self,
        latents: Tensor,
        prompt_embeds: Tensor | None,
        tile: int | None = None,
        overlap: int | None = None,
        tile_grid: str = "official",
        *,
        tile_batch: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The one step: scaled latents z_L (B, C, h, w), prompt_embeds (B or 1, L, D) -> z_H, scaled, fp32.

        prompt_embeds: None for a UNet port that holds its own conditioning.
        tile, overlap: in latents; areas above tile * tile are predicted in overlapping tiles and blended, in smaller
        ones where memory is short. None is no tiling; overlap is a third of the tile if not given (the official pair is
        96 and 32). tile_grid: "balanced" or "official". tile_batch: tiles at once. progress(done, total): called as
        tiles are done. Raises OptionError for impossible tiles.
        """
        model_output = self.predict(
            latents, prompt_embeds, tile, overlap, tile_grid, tile_batch=tile_batch, progress=progress
        )
        latents = latents.to(model_output.device)
        restored = self.schedule.predict_x0(latents, model_output, self.timestep)
        return restored if self.step == 1 else torch.lerp(latents.to(restored), restored, self.step)

    def predict(
        self,
        latents: Tensor,
        prompt_embeds: Tensor | None,
        tile: int | None = None,
        overlap: int | None = None,
        tile_grid: str = "official",
        *,
        tile_batch: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """The UNet's output at timestep T, whole or blended from tiles; arguments as in `denoise`."""
        latents = latents.contiguous()
        batch = latents.shape[0]
        embeds = _one_for_each(prompt_embeds, batch)
        timesteps = torch.full((batch,), self.timestep, dtype=torch.long, device=latents.device)
        tiling = UNetTiling(tile, overlap, tile_grid, tile_batch)
        return run_stage(
            "denoise", self.unet, lambda: predict(self.unet, latents, timesteps, embeds, tiling, progress)
        )

    def decode(
        self, latents: Tensor, *, tiling: VAETiling = AUTO, progress: Progress | None = None
    ) -> Tensor:
        """Scaled latents z_H (B, C, h, w) -> restored image (B, 3, f h, f w), fp32, clamped to [-1, 1].

        tiling, progress: as in `encode`. Raises OptionError for tiles while training, OutOfDisk.
        """
        unscaled = (latents / self.vae.scaling_factor).contiguous()

        def whole() -> Tensor:
            return self.vae.decode(unscaled).float()

        def stage() -> Tensor:
            network = self.vae.decoder(*unscaled.shape[-2:])
            return whole() if network is None else run("decode", network, unscaled, whole, tiling, progress)

        return run_stage("decode", self.vae, stage).clamp(-1, 1)

    @torch.inference_mode()
    def restore(
        self,
        lq: Tensor,
        prompt: str | list[str] = "",
        *,
        tile: int | None = None,
        overlap: int | None = None,
        tile_grid: str = "official",
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        vae_tiling: VAETiling = AUTO,
        progress: Progress | None = None,
    ) -> Tensor:
        """LQ image (B, 3, H, W) in [-1, 1], any size -> restored image of the same size, fp32, in [-1, 1].

        The image is at its final size already: enlarge it beforehand, as the official code does. Sides that
        are no multiple of the VAE's are padded by reflection and cropped back. prompt: one for all, or one
        each. Other arguments as in `encode` and `denoise`. Raises ImageError, OptionError.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        _check_rgb(lq)
        padded, size = pad_to_multiple(lq, self.vae.downscale)
        prompt_embeds = self.encode_prompt(prompts)
        latents = self.encode(padded, sample_posterior, generator, tiling=vae_tiling, progress=progress)
        latents = self.denoise(latents, prompt_embeds, tile, overlap, tile_grid, progress=progress)
        return crop_back(self.decode(latents, tiling=vae_tiling, progress=progress), size)

    def _check_image(self, lq: Tensor) -> None:
        _check_rgb(lq)
        height, width = lq.shape[-2:]
        f = self.vae.downscale
        if height % f or width % f or not height or not width:
            raise ImageError(
                f"The image is {width}x{height}, but the VAE takes sides that are multiples of {f}; pad it "
                "first (restore() does) or resize it."
            )


def _weights_for(source: Source, path: str | Path | None) -> OSEDiffWeights:
    """The OSEDiff weights in the file at `path`, or those that lie beside the base."""
    from .weights.checkpoint import read_weights
    from .weights.identify import identify

    path = path if path is not None else source.default_weights
    if path is None:
        identity = identify(source.path)
        if identity.kind not in _BASE_KINDS:  # then the base is the mistake, not the missing weights
            raise BaseModelError(f"The base {source.name} is {identity.what}; {identity.use}.")
        raise CheckpointError(
            f"The base {source.name} brings no OSEDiff weights of its own; give some (--weights), for "
            "example the official osediff.pkl."
        )
    return read_weights(path)


def _check_timestep(weights: OSEDiffWeights, schedule: NoiseSchedule) -> None:
    if weights.timestep >= schedule.num_timesteps:
        raise CheckpointError(
            f"{weights.source} is for timestep {weights.timestep}, but the base's schedule ends at "
            f"{schedule.num_timesteps - 1}; use weights and a base that belong together."
        )


def _check_rgb(image: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] != 3:
        raise ImageError(
            f"An image has the shape (batch, 3, height, width), not {tuple(image.shape)}; give RGB images."
        )


def _one_for_each(prompt_embeds: Tensor | None, batch: int) -> Tensor | None:
    if prompt_embeds is None:
        return None
    if prompt_embeds.shape[0] not in (1, batch):
        raise OptionError(
            f"There are {prompt_embeds.shape[0]} prompts for {batch} images; give one prompt, or one for "
            "each image."
        )
    return prompt_embeds.expand(batch, -1, -1)
