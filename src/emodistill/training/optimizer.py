"""Optimizers: AdamW, or Muon for the matrices of linear layers and AdamW for all other parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from emodistill.config import OptimConfig


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024) and AdamW as one optimizer, with one list of groups and one state to save.

    Muon moves a matrix along its orthogonalised momentum. The step is scaled to the size of AdamW's (Liu et
    al. 2025, arXiv 2502.16982), so that both share a learning rate.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
        self.muon = Muon(matrices, adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(others)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share_groups_and_state()

    def _share_groups_and_state(self) -> None:
        num_muon = len(self.muon.param_groups)
        self.muon.param_groups = self.param_groups[:num_muon]
        self.adamw.param_groups = self.param_groups[num_muon:]
        self.muon.state = self.adamw.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # replaces the groups, so the two parts need the new ones
        self._share_groups_and_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both. The closure, where there is one, computes gradients and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss


def build_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """Return the optimizer of a training.

    Pretrained layers learn at `backbone_lr`; their adapters, which start from nothing, and all other layers
    learn at `lr`. Biases and norms have no weight decay.
    """
    linear_weights = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            is_pretrained = ("backbone." in name or name.startswith("encoder.")) and ".lora_" not in name
            lr = optim.backbone_lr if is_pretrained and optim.backbone_lr is not None else optim.lr
            decay = optim.weight_decay if value.ndim > 1 else 0.0
            by_muon = optim.optimizer == "muon" and id(value) in linear_weights
            groups.setdefault((by_muon, lr, decay), []).append(value)
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for (by_muon, lr, decay), params in groups.items():
        parts[by_muon].append({"params": params, "lr": lr, "weight_decay": decay})
    return MuonAdamW(parts[True], parts[False]) if parts[True] else AdamW(parts[False])
