"""The registry of backbone families, and how a backbone is loaded or rebuilt."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from emodistill.citations import Citation
from emodistill.errors import EmodistillError, ModelError, one_of
from emodistill.models.base import Backbone, PretrainedBackbone, first_line, no_progress_bar
from emodistill.models.compact import Compact
from emodistill.models.data2vec import Data2VecAudio
from emodistill.models.pretrained import folder_or_id
from emodistill.models.wav2vec2 import Wav2Vec2, WavLM
from emodistill.models.whisper import Whisper

FAMILIES: tuple[type[Backbone], ...] = (Compact, Whisper, Wav2Vec2, WavLM, Data2VecAudio)

_FAMILY_OF = {model_type: family for family in FAMILIES for model_type in family.model_types}

CITATIONS: Mapping[str, Citation | str] = {
    model_type: family.citations[model_type] for family in FAMILIES for model_type in family.model_types
}


def load_backbone(name: str, num_layers: int | None, width: int = 192) -> Backbone:
    """Load a backbone by hub id or folder with its pretrained weights, or make `compact` with random ones.

    Args:
        num_layers: use the first layers alone; None uses all, and 6 for `compact`.
        width: of `compact`; the others have their own.

    Raises `ModelError` if nothing can be loaded, if no family has its model type, or if it has fewer layers.
    """
    if name in Compact.model_types:
        return Compact(width, num_layers or 6)
    where = folder_or_id(name)
    try:
        model_type = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
        family = _FAMILY_OF.get(model_type)
        if family is not None and issubclass(family, PretrainedBackbone):
            with no_progress_bar(where):
                return family.from_pretrained(where, num_layers)
    except EmodistillError:
        raise
    except Exception as error:  # transformers and torch raise errors of many kinds, such as for a pickle
        raise ModelError(
            f"backbone '{name}' cannot be loaded: {first_line(error)} "
            "Give a folder that holds config.json and model.safetensors (--set student.backbone=DIR), "
            "or go online once so that the hub id can be downloaded."
        ) from error
    known = [name for name, family in _FAMILY_OF.items() if issubclass(family, PretrainedBackbone)]
    raise ModelError(f"backbone '{name}': {one_of('model type', model_type, known)}")


def rebuild_backbone(model_type: str, config: dict[str, Any], num_layers: int) -> Backbone:
    """Build the architecture of a saved backbone with random weights; downloads nothing.

    Raises `ModelError` if no family has this model type.
    """
    if model_type not in _FAMILY_OF:
        raise ModelError(one_of("model type", model_type, _FAMILY_OF))
    return _FAMILY_OF[model_type].from_config(config, num_layers)
