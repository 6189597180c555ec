"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685) of a student's trained layers, by peft.

A linear layer with the weights W gets an adapter of rank r: W + (α / r) B A, with A (r, inputs) and
B (outputs, r). A and B are trained, and W is not. B starts at zero, so an adapted student starts with the
outputs of the pretrained one. Adapters exist during a training alone: a checkpoint has plain weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from emodistill.errors import ConfigError
from emodistill.models.student import Student

ALPHA = 2  # α / r, the weight of an adapter's product


@contextmanager
def adapters(model: nn.Module, seed: int) -> Iterator[None]:
    """Train adapters in place of the backbone's layers inside the `with` block, and merge them at its end.

    They have the rank `student.lora`, and their first values depend on `seed` alone. Adapted are all linear
    layers, those of attention and of the feed-forward part, in the blocks above `student.frozen`. A linear
    layer whose smaller side is not larger than the rank stays as it is. Inside the block no other weight of
    the backbone is trained. A teacher of another kind, and a student with lora = 0, stay as they are.

    Needs peft. Raises `ConfigError` where the rank is too large for every layer.
    """
    if not isinstance(model, Student) or not model.config.lora:
        yield
        return
    trained = [value for value in model.backbone.parameters() if value.requires_grad]
    _insert(model, seed)
    yield
    _merge(model)
    for value in trained:
        value.requires_grad_(True)


def _insert(student: Student, seed: int) -> None:
    """Put an untrained adapter on each linear layer, and stop the training of the backbone's own weights."""
    from peft import LoraConfig, inject_adapter_in_model

    rank, backbone = student.config.lora, student.backbone
    names = [
        f"blocks.{index}.{name}"
        for index in range(student.config.frozen, backbone.num_layers)
        for name, layer in backbone.blocks[index].named_modules()
        if isinstance(layer, nn.Linear) and min(layer.weight.shape) > rank
    ]
    if not names:
        raise ConfigError(
            f"student.lora = {rank} is not smaller than any linear layer of the backbone, whose width is "
            f"{backbone.width}: choose a smaller rank, such as 8"
        )
    torch.manual_seed(seed)
    settings = LoraConfig(r=rank, lora_alpha=ALPHA * rank, lora_dropout=0.0, target_modules=names)
    inject_adapter_in_model(settings, backbone)
    backbone.call_linear_layers(True)


@torch.no_grad()
def _merge(student: Student) -> None:
    """Add each adapter to the weights of its layer, and put that layer back in its place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    backbone = student.backbone
    for name, module in list(backbone.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)  # raises where a weight is not finite
            parent, _, own_name = name.rpartition(".")
            setattr(backbone.get_submodule(parent), own_name, module.get_base_layer())
    backbone.call_linear_layers(False)
    del backbone.peft_config
