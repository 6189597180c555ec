"""Features for training: prepared and augmented waveforms, LLDs, and the cache of arrays."""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_names

if TYPE_CHECKING:
    from emodistill.features.augment import apply_channel, augment_view
    from emodistill.features.cache import ArrayCache, run_jobs
    from emodistill.features.llds import NUM_LLDS, cache_llds, extract_llds, lld_key
    from emodistill.features.preparation import PREPARATION, prepare_waveform

__all__ = [
    "NUM_LLDS",
    "PREPARATION",
    "ArrayCache",
    "apply_channel",
    "augment_view",
    "cache_llds",
    "extract_llds",
    "lld_key",
    "prepare_waveform",
    "run_jobs",
]

__getattr__, __dir__ = lazy_names(
    "emodistill.features",
    {
        "NUM_LLDS": "emodistill.features.llds",
        "PREPARATION": "emodistill.features.preparation",
        "ArrayCache": "emodistill.features.cache",
        "apply_channel": "emodistill.features.augment",
        "augment_view": "emodistill.features.augment",
        "cache_llds": "emodistill.features.llds",
        "extract_llds": "emodistill.features.llds",
        "lld_key": "emodistill.features.llds",
        "prepare_waveform": "emodistill.features.preparation",
        "run_jobs": "emodistill.features.cache",
    },
)
