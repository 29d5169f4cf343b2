"""Generator of OSEDiff: a low-quality image becomes a restored one in a single diffusion step.

    image -> encode -> denoise -> decode -> image

Its parts, their order, and how strongly the weights act; the steps themselves are in files of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .decode import decode
from .denoise import denoise, predict
from .encode import check_rgb, encode
from .errors import OptionError
from .fidelity import strengths
from .geometry import crop_back, pad_to_multiple
from .method import Method
from .passes import Pass
from .ports import LatentCodec, NoisePredictor, Progress, PromptEncoder
from .runtime.stage import run_stage
from .schedule import NoiseSchedule
from .tiles.unet import WHOLE, UNetTiling
from .tiles.vae import AUTO, VAETiling

if TYPE_CHECKING:
    from .backends.speed import Speed
    from .weights.merge import MergedAdapter
    from .weights.one_step_weights import LoRASet
    from .weights.tensor_file import TensorFile


class OneStepGenerator:
    """Encode, denoise once, decode.

    The verbs can be differentiated (training calls them); `restore` chains them without gradients. Latents are scaled
    (`ports.LatentCodec`). Without gradients, a stage that gives NaN or infinity in half precision is run again in fp32.

    timestep: T, the schedule's last one if not given (999 for Stable Diffusion).
    adapters: merged weights by part ("unet", "vae"), whose strength `set_strength` changes; it also sets `step`, how
    much of the step is taken, which is all of it otherwise.
    method: facts of the method, whose sliders `set_sliders` sets; OSEDiff's if not given. prepare: what it makes of a
    picture, if its weights depend on that; None: nothing.
    Raises OptionError for a timestep outside the schedule.
    """

    def __init__(
        self,
        vae: LatentCodec,
        unet: NoisePredictor,
        text: PromptEncoder,
        schedule: NoiseSchedule,
        timestep: int | None = None,
        adapters: Mapping[str, MergedAdapter] | None = None,
        method: Method | None = None,
    ) -> None:
        self.vae = vae
        self.unet = unet
        self.text = text
        self.schedule = schedule
        self.timestep = schedule.num_timesteps - 1 if timestep is None else timestep
        self.adapters = dict(adapters or {})
        self.step = 1.0
        self.method = method or Method()
        self.prepare: Callable[[Tensor], tuple[list[LoRASet], LoRASet]] | None = None
        self.set_sliders()
        if not 0 <= self.timestep < schedule.num_timesteps:
            raise OptionError(
                f"Timestep {timestep} is outside the schedule's 0 to {schedule.num_timesteps - 1}; use "
                "weights and a base that belong together."
            )

    @classmethod
    def load(
        cls,
        base: str | Path = "tiny",
        weights: str | Path | TensorFile | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        strength: float | tuple[float, float] = 1.0,
        fidelity: float = 0.0,
        sliders: Mapping[str, float] | None = None,
        method: str | None = None,
        decoder: str | Path | None = None,
        keep_base: bool = True,
        allow_download: bool = False,
        revision: str | None = None,
        speed: Speed | None = None,
        cache: str | Path | None = None,
    ) -> OneStepGenerator:
        """Load a base model and merge the weights of a one-step method into it.

        base: a diffusers folder, a single-file Stable Diffusion checkpoint, a hub id, or "tiny".
        weights: a file or folder of a method's weights, as it is published or as we write it, or such a file opened;
            None takes the base's own, if it has some.
        dtype: auto, fp32, fp16, bf16; what is merged is merged in fp32 and then rounded to it.
        device: auto, cpu, cuda, mps, xpu.
        strength: of the weights, for UNet and VAE alike or as (unet, vae); 1 is the official result, 0 none.
        fidelity: as in `set_fidelity`; its strengths are multiplied with `strength`.
        sliders: as in `set_sliders`, instead of fidelity.
        method: the name of the weights' method, where their file could be of several.
        decoder: a file of a light decoder, in the place of the base's own: less work, at some cost in quality.
        keep_base: keep the base's values of the adapted tensors, so that the strength can be changed later.
            They stay in the base's file, which must then not be overwritten, and cost no memory; only those
            of a torch file older than 2020 cost up to the UNet's size, in system memory.
        allow_download, revision: for hub ids.
        speed: what makes it faster; the defaults cost nothing.
        cache: a folder in which the base with OSEDiff's weights merged into it is kept, by content, strength and dtype,
            with the embeddings of prompts: 2.5 GB each at SD 2.1's size in half precision. What is found there is
            mapped at once; the strength is then fixed.
        Raises BaseModelError, CheckpointError or OptionError, each before any network is changed.
        """
        from .backends.find_base import find_base, first_files
        from .weights.mapped import read_ahead

        if fidelity and sliders:
            raise OptionError(
                f"Fidelity sets {' and '.join(sliders)} itself; give either the one or the others."
            )
        where = find_base(base, allow_download, revision)
        if cache is None:
            read_ahead(first_files(where))  # while the libraries are imported
        from .load import load_parts, read_weights_for

        one_step, facts = read_weights_for(where, weights, method)
        chosen, numbers = strengths(fidelity), sliders or {}
        if facts.fidelity is not None:
            numbers = numbers or facts.fidelity(fidelity)
            chosen = strengths(0)
        facts.settle(numbers)
        for_unet, for_vae = (strength, strength) if isinstance(strength, int | float) else strength
        acting = (for_unet * chosen.unet, for_vae * chosen.vae)
        if cache is not None:
            from .merged import from_cache

            kept = from_cache(
                Path(cache), where, weights, one_step, dtype=dtype, device=device, strength=acting
            )
            if kept is not None:
                where, acting = kept, (1.0, 1.0)
                one_step, facts = read_weights_for(where, None, None)
        parts = load_parts(
            where,
            one_step,
            dtype=dtype,
            device=device,
            strength=acting,
            # whose passes are of different sets, or whose sets are another picture's next time
            keep_base=keep_base or bool(facts.sliders) or facts.prepare is not None,
            decoder=decoder,
            speed=speed,
        )
        generator = cls(*parts, method=facts)
        if facts.prepare is not None:
            generator.prepare = facts.prepare(one_step)
        generator.set_strength(step=chosen.step)
        generator.set_sliders(**numbers)
        return generator

    def set_strength(
        self, unet: float | None = None, vae: float | None = None, step: float | None = None
    ) -> None:
        """Change the strength of the weights, and of the step itself; None leaves a part as it is.

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
        """Set all strengths by one slider: -1 more detail, 0 as trained, 1 nothing but the input (fidelity.py).

        Of a method with sliders of that meaning, these. Raises OptionError as `set_strength` does, and outside [-1, 1].
        """
        chosen = strengths(fidelity)
        if self.method.fidelity is None:
            self.set_strength(**chosen._asdict())
        else:
            self.set_sliders(**self.method.fidelity(fidelity))

    def look_at(self, image: Tensor) -> None:
        """Make weights that depend on the picture ready for this one; of other methods nothing changes.

        image (1, 3, h, w) in [-1, 1], before it is enlarged. Raises ImageError for another shape.
        """
        if self.prepare is None:
            return
        check_rgb(image)
        unet, vae = self.prepare(image)
        self.adapters["unet"].replace_sets(unet)
        self.adapters["vae"].replace_sets([vae])

    def set_sliders(self, **numbers: float) -> None:
        """Set the method's own sliders; those not given get their defaults. Raises OptionError for one it has not."""
        self.sliders = self.method.settle(numbers)
        self._passes = self.method.passes(**self.sliders)

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
        """`encode.encode` by this VAE: lq (B, 3, H, W) in [-1, 1] -> z_L (B, C, H/f, W/f), scaled, fp32."""
        return encode(
            self.vae, lq, sample_posterior, generator, posterior_noise, tiling=tiling, progress=progress
        )

    def reads_whole(self, prompt: str) -> bool:
        """Whether the text encoder reads all of a prompt."""
        return self.text.fits(prompt)

    def encode_prompt(self, prompts: list[str]) -> Tensor:
        """B prompts -> prompt_embeds (B, 77, D), without gradients."""
        return run_stage("prompt", self.text, lambda: self.text(prompts))

    def denoise(
        self,
        latents: Tensor,
        prompt_embeds: Tensor | None,
        *,
        tiling: UNetTiling = WHOLE,
        progress: Progress | None = None,
    ) -> Tensor:
        """`denoise.denoise` by this UNet: z_L (B, C, h, w), prompt_embeds (B or 1, L, D) -> z_H, scaled, fp32."""
        return denoise(
            self.unet,
            self.schedule,
            self.timestep,
            latents,
            prompt_embeds,
            tiling=replace(tiling, centred=self.method.centred_tiles),
            step=self.step,
            progress=progress,
            passes=self._passes,
            enter=lambda one: self._enter(one, prompt_embeds),
        )

    def predict(
        self,
        latents: Tensor,
        prompt_embeds: Tensor | None,
        *,
        tiling: UNetTiling = WHOLE,
        progress: Progress | None = None,
    ) -> Tensor:
        """The UNet's output at timestep T, fp32; arguments as in `denoise`."""
        return predict(
            self.unet,
            self.timestep,
            latents,
            prompt_embeds,
            tiling=replace(tiling, centred=self.method.centred_tiles),
            progress=progress,
            passes=self._passes,
            enter=lambda one: self._enter(one, prompt_embeds),
        )

    def _enter(self, one: Pass, prompt_embeds: Tensor | None) -> Tensor | None:
        """The UNet made ready for a pass; the pass's prompt_embeds."""
        if one.sets is not None:
            self.adapters["unet"].select(one.sets)
        return prompt_embeds if one.prompt is None else self.encode_prompt([one.prompt])

    def decode(
        self, latents: Tensor, *, tiling: VAETiling = AUTO, progress: Progress | None = None
    ) -> Tensor:
        """`decode.decode` by this VAE: scaled latents z_H (B, C, h, w) -> image (B, 3, f h, f w), fp32, in [-1, 1]."""
        return decode(self.vae, latents, tiling=tiling, progress=progress)

    @torch.inference_mode()
    def restore(
        self,
        lq: Tensor,
        prompt: str | list[str] = "",
        *,
        source: Tensor | None = None,
        unet_tiling: UNetTiling = WHOLE,
        vae_tiling: VAETiling = AUTO,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """LQ image (B, 3, H, W) in [-1, 1], any size -> restored image of the same size, fp32, in [-1, 1].

        The image is at its final size already: enlarge it beforehand, as the official code does. Sides that
        are no multiple of the VAE's are padded by reflection and cropped back. prompt: one for all, or one
        each. source: the image before it was enlarged, which some methods look at. Other arguments as in `encode`
        and `denoise`. Raises ImageError, OptionError.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        prompts = [text or self.method.default_prompt for text in prompts]
        check_rgb(lq)
        if self.prepare is not None and lq.shape[0] > 1:
            raise OptionError(f"{self.method.title} takes one picture at a time; restore them one by one.")
        self.look_at(lq if source is None else source)
        padded, size = pad_to_multiple(lq, self.vae.downscale)
        prompt_embeds = self.encode_prompt(prompts)
        latents = self.encode(padded, sample_posterior, generator, tiling=vae_tiling, progress=progress)
        latents = self.denoise(latents, prompt_embeds, tiling=unet_tiling, progress=progress)
        return crop_back(self.decode(latents, tiling=vae_tiling, progress=progress), size)
