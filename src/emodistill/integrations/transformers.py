"""Makes transformers load the folders of `emodistill export --to transformers`: import this module first.

After `import emodistill.integrations.transformers`, `pipeline("audio-classification", model="DIR")` and
`AutoModelForAudioClassification.from_pretrained("DIR")` need no `trust_remote_code`. Needs [transformers].
"""

from emodistill.errors import MissingExtraError

try:
    from emodistill.integrations.modeling_emodistill import (
        EmoDistillConfig,
        EmoDistillFeatureExtractor,
        EmoDistillForAudioClassification,
    )
except ImportError as error:
    package = "torch" if error.name == "torch" else "transformers"
    raise MissingExtraError(package, "transformers", "emodistill.integrations.transformers") from error

from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

__all__ = ["EmoDistillConfig", "EmoDistillFeatureExtractor", "EmoDistillForAudioClassification"]

AutoConfig.register(EmoDistillConfig.model_type, EmoDistillConfig, exist_ok=True)
AutoFeatureExtractor.register(EmoDistillConfig, EmoDistillFeatureExtractor, exist_ok=True)
AutoModelForAudioClassification.register(EmoDistillConfig, EmoDistillForAudioClassification, exist_ok=True)
