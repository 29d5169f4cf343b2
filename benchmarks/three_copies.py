"""The peer of benchmarks/training.py: a straightforward OSEDiff trainer in plain diffusers and peft.

It is laid out as the released script is: a generator with VAE, UNet and text encoder, and a regulariser with a VAE, a
text encoder and two UNets of its own; prompts are encoded one by one in every step. Written for the comparison alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel

from osediff_core.weights.lora_targets import unet_targets, vae_targets

_ADAPTERS = ("default_encoder", "default_decoder", "default_others")


class ThreeCopies:
    """Generator, teacher and regulariser as three UNets."""

    def __init__(self, base: Path, perceptual: nn.Module, negative_prompt: str, rank: int = 4) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer", trust_remote_code=False)
        self.text, self.reg_text = (
            CLIPTextModel.from_pretrained(base / "text_encoder", trust_remote_code=False) for _ in range(2)
        )
        self.vae, self.reg_vae = (AutoencoderKL.from_pretrained(base / "vae") for _ in range(2))
        self.unet, self.fix, self.update = (
            UNet2DConditionModel.from_pretrained(base / "unet") for _ in range(3)
        )
        self.perceptual, self.negative_prompt = perceptual, negative_prompt
        for module in self.modules():
            module.requires_grad_(False)
        for unet in (self.unet, self.update):
            groups = unet_targets(name for name, _ in unet.named_parameters())
            for adapter, modules in zip(_ADAPTERS, groups.values(), strict=True):
                config = LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules)
                unet.add_adapter(config, adapter_name=adapter)
            unet.set_adapter(list(_ADAPTERS))
        modules = vae_targets(name for name, _ in self.vae.named_parameters())
        self.vae.add_adapter(LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules))
        self.unet.conv_in.requires_grad_(True)
        abar = DDPMScheduler.from_pretrained(base / "scheduler").alphas_cumprod
        self.alpha, self.sigma = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
        self.generator_parameters = [
            p for m in (self.unet, self.vae) for p in m.parameters() if p.requires_grad
        ]
        self.regulariser_parameters = [p for p in self.update.parameters() if p.requires_grad]
        options = {"lr": 5e-5, "betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": 1e-8}
        self.optimizer = torch.optim.AdamW(self.generator_parameters, **options)
        self.regulariser_optimizer = torch.optim.AdamW(self.regulariser_parameters, **options)

    def modules(self) -> list[nn.Module]:
        """All networks but the perceptual one."""
        return [
            self.text, self.reg_text, self.vae, self.reg_vae, self.unet, self.fix, self.update
        ]  # fmt: skip

    def step(self, lq: Tensor, hq: Tensor, prompts: list[str]) -> None:
        """One update of each; lq, hq (B, 3, H, W) in [-1, 1]."""
        embeds, negative = self._embed(prompts), self._embed([self.negative_prompt] * len(prompts))
        scale, last = self.vae.config.scaling_factor, len(self.alpha) - 1
        z = self.vae.encode(lq).latent_dist.sample() * scale
        eps = self.unet(z, torch.tensor([last]), encoder_hidden_states=embeds).sample
        x0 = (z - self.sigma[last] * eps) / self.alpha[last]
        image = self.vae.decode(x0 / scale).sample.clamp(-1, 1)
        loss = F.mse_loss(image, hq) + 2 * self.perceptual(image, hq).mean() + self._vsd(x0, embeds, negative)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.generator_parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        t, noise = torch.randint(0, len(self.alpha), (len(lq),)), torch.randn_like(x0)
        z_t = self.alpha[t] * x0.detach() + self.sigma[t] * noise
        F.mse_loss(self.update(z_t, t, encoder_hidden_states=embeds).sample, noise).backward()
        torch.nn.utils.clip_grad_norm_(self.regulariser_parameters, 1.0)
        self.regulariser_optimizer.step()
        self.regulariser_optimizer.zero_grad()

    def _vsd(self, x0: Tensor, embeds: Tensor, negative: Tensor) -> Tensor:
        t, noise = torch.randint(20, 980, (len(x0),)), torch.randn_like(x0)
        alpha, sigma = self.alpha[t], self.sigma[t]
        z_t = alpha * x0 + sigma * noise
        with torch.no_grad():
            fake = (z_t - sigma * self.update(z_t, t, encoder_hidden_states=embeds).sample) / alpha
            both = self.fix(
                torch.cat([z_t, z_t]), torch.cat([t, t]), encoder_hidden_states=torch.cat([negative, embeds])
            )
            without, with_prompt = both.sample.chunk(2)
            real = (z_t - sigma * (without + 7.5 * (with_prompt - without))) / alpha
            weight = (x0 - real).abs().mean(dim=(1, 2, 3), keepdim=True)
        return F.mse_loss(x0, (x0 - (fake - real) / weight).detach())

    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> Tensor:
        embedded = []
        for prompt in prompts:
            ids = self.tokenizer(
                prompt, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
            )
            embedded.append(self.text(ids.input_ids).last_hidden_state)
        return torch.cat(embedded)
