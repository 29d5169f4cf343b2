"""DAPE's LoRA as peft trains it: on, off for the teacher, and out as the official code reads it.

peft adapts q and v as two layers where the official code adapts one fused qkv; each of peft's factors is a slice of the
official one, and the scale, 1 / rank, is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.mapping import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from osediff_core.dape.layout import layout
from osediff_core.dape.lora import lora_modules
from osediff_core.dape.network import TaggerNetwork
from osediff_core.errors import CheckpointError
from osediff_core.weights.one_step_weights import LoRAPair
from osediff_core.weights.write_file import sorted_safetensors, torch_bytes

_ADAPTER = "default"


def adapted_layers(network: TaggerNetwork) -> dict[str, tuple[str, ...]]:
    """Official module -> the network's layers whose LoRA it holds, one after the other: q and v of a fused qkv."""
    names = layout(network)
    found = {}
    for module in lora_modules(network.config):
        layers = tuple(name.removesuffix(".weight") for name in names[f"{module}.weight"])
        found[module] = (layers[0], layers[2]) if len(layers) == 3 else layers
    return found


class DapeAdapters:
    """LoRA on a network's layers. Initialised as official: A as a linear layer's, B zero.

    parameters: name -> fp32 parameter, what is trained; everything else is frozen.
    """

    def __init__(self, network: TaggerNetwork, rank: int, seed: int = 0) -> None:
        self.network, self.layers = network, adapted_layers(network)
        targets = [layer for layers in self.layers.values() for layer in layers]
        network.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # peft draws A from the global generator
            config = LoraConfig(r=rank, lora_alpha=1, lora_dropout=0.0, target_modules=targets)
            inject_adapter_in_model(config, network, _ADAPTER)
        self.parameters: dict[str, nn.Parameter] = {}
        for layer in targets:
            for factor, parameter in zip("AB", self._factors(layer), strict=True):
                parameter.data = parameter.data.float()
                self.parameters[f"{layer}.lora_{factor}"] = parameter

    def _factors(self, layer: str) -> tuple[nn.Parameter, nn.Parameter]:
        module: Any = self.network.get_submodule(layer)  # peft's layers name their factors at run time
        return module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network as it was, for evaluation: the teacher. Afterwards it is as before."""
        training = self.network.training
        self._enable(False)
        self.network.eval()
        try:
            yield
        finally:
            self._enable(True)
            self.network.train(training)

    def _enable(self, on: bool) -> None:
        for module in self.network.modules():
            if isinstance(module, LoraLayer):
                module.enable_adapters(on)
        for parameter in self.parameters.values():  # peft takes it away from what is off
            parameter.requires_grad_(True)

    def pairs(self) -> dict[str, LoRAPair]:
        """Copies by official module, on the CPU."""
        found = {}
        for module, layers in self.layers.items():
            a, b = zip(*(self._factors(layer) for layer in layers), strict=True)
            found[module] = LoRAPair(*(torch.cat([f.detach().cpu() for f in side]) for side in (a, b)))
        return found

    @torch.no_grad()
    def load(self, pairs: Mapping[str, LoRAPair], source: str) -> None:
        """Set all factors. Raises CheckpointError where `source` has another rank or lacks modules."""
        for module, layers in self.layers.items():
            count = len(layers)
            sides = [factor.chunk(count) for factor in pairs[module]] if module in pairs else []
            for number, layer in enumerate(layers):
                factors = self._factors(layer)
                held = [side[number] for side in sides if len(side) == count]
                if [tensor.shape for tensor in held] != [factor.shape for factor in factors]:
                    rank = factors[0].shape[0]
                    raise CheckpointError(
                        f"{source} has no LoRA of rank {rank} for {module}; set model.rank to what it was trained with."
                    )
                for factor, tensor in zip(factors, held, strict=True):
                    factor.copy_(tensor)


def flat(pairs: Mapping[str, LoRAPair]) -> dict[str, Tensor]:
    """Names and tensors as in DAPE.pth."""
    return {
        f"{module}.lora_{factor}": tensor.contiguous()
        for module, pair in pairs.items()
        for factor, tensor in zip("AB", pair, strict=True)
    }


def pth_bytes(pairs: Mapping[str, LoRAPair]) -> bytes:
    """DAPE.pth, as SeeSR's and OSEDiff's code reads it.

    It leaves out the LoRA of the tag encoder and the text decoder, which their code never trains: it stays at zero.
    """
    return torch_bytes(flat(pairs))


def safetensors_bytes(pairs: Mapping[str, LoRAPair], metadata: Mapping[str, str]) -> bytes:
    """The same without a pickle."""
    return sorted_safetensors(flat(pairs), metadata)
