"""What moves the weights: AdamW, or Muon for the matrices of linear layers and AdamW for all else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from emodistill.config import OptimConfig


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024) and AdamW as one optimizer, with one list of groups and one state to save.

    Muon moves a matrix along its orthogonalised momentum; the step is scaled to AdamW's size (Liu et al.
    2025, arXiv 2502.16982), so that both share a learning rate.
    """

    def __init__(self, matrices: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
        self.muon = Muon(matrices, adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(others)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        split = len(self.muon.param_groups)
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:split], self.param_groups[split:]
        self.muon.state = self.adamw.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # a loaded state comes with groups of its own
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both; the closure computes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss


def build_optimizer(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """The optimizer of a training: pretrained layers at `backbone_lr`, no decay of biases and norms."""
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad:
            pretrained = "backbone." in name or name.startswith("encoder.")
            lr = optim.backbone_lr if pretrained and optim.backbone_lr is not None else optim.lr
            decay = optim.weight_decay if value.ndim > 1 else 0.0
            muon = optim.optimizer == "muon" and id(value) in linear
            groups.setdefault((muon, lr, decay), []).append(value)
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for (muon, lr, decay), params in groups.items():
        parts[muon].append({"params": params, "lr": lr, "weight_decay": decay})
    return MuonAdamW(parts[True], parts[False]) if parts[True] else AdamW(parts[False])
