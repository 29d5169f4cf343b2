"""DAPE's loss (SeeSR, arXiv 2311.16518, section 3.2).

The student, who sees the degraded picture, follows the teacher, who sees the good one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from osediff_core.dape.network import TaggerNetwork
from osediff_core.dape.preprocess import preprocess

from ..steps import autocast
from .adapters import DapeAdapters
from .config import DapeLossConfig


def distances(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """(embeddings (B, T, C), logits (B, tags)) of both -> scalars "features" and "logits".

    MSE of the embeddings, and BCE with the teacher's probabilities as soft targets, both means over everything. SeeSR
    writes -(p log q + (1 - p) log(1 - q)) with sigmoids taken before; from logits it is the same and cannot overflow.
    """
    embeddings, logits = student
    wanted, certain = teacher
    return {
        "features": F.mse_loss(embeddings.float(), wanted.float()),
        "logits": F.binary_cross_entropy_with_logits(logits.float(), certain.float().sigmoid()),
    }


class DapeStep(nn.Module):
    """One network in two roles: with LoRA the student, without it the teacher.

    It registers only what is trained, so that a distributed wrapper around it has nothing else to keep alike.
    """

    def __init__(
        self,
        network: TaggerNetwork,
        adapters: DapeAdapters,
        loss: DapeLossConfig,
        precision: str = "fp32",
        train_mode: bool = True,
    ) -> None:
        super().__init__()
        self.trained = nn.ParameterList(adapters.parameters.values())
        # in a tuple, as a module set as an attribute would become a part
        self._shared = (network, adapters)
        self.loss, self.precision, self.train_mode = loss, precision, train_mode

    def forward(self, lq: Tensor, hq: Tensor, seed: int) -> dict[str, Tensor]:
        """lq, hq (B, 3, H, W) in [-1, 1] -> scalars "loss", "features", "logits".

        seed: of dropout and drop path, so that a resumed run drops what an uninterrupted one does.
        """
        network, adapters = self._shared
        size = network.config.image_size
        with torch.no_grad(), autocast(hq.device, self.precision), adapters.off():
            teacher = seen(network, preprocess(hq, size))
        network.train(self.train_mode)
        devices = [lq.device] if lq.device.type == "cuda" else []
        with torch.random.fork_rng(devices), autocast(lq.device, self.precision):
            torch.manual_seed(seed)
            student = seen(network, preprocess(lq, size))
        terms = distances(student, teacher)
        loss = torch.stack([getattr(self.loss, name) * term for name, term in terms.items()]).sum()
        return {"loss": loss, **terms}


def seen(network: TaggerNetwork, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """pixels as `preprocess` gives them -> embeddings (B, T, C) and logits (B, tags)."""
    embeddings = network.embed(pixels)
    return embeddings, network.classify(embeddings)
