"""Loads audio classifiers and regressors of Hugging Face's transformers, and tells what they predict."""

from collections.abc import Sequence
from typing import Any

from emodistill.errors import MissingExtraError, ModelError
from emodistill.labels import DIMENSIONS

# Names of the class with the head of `regression_model` in config.json: in the cards of
# audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim and of the model that its head comes from.
CUSTOM_HEADS = ("EmotionModel", "Wav2Vec2ForSpeechClassification")
_NUM_LISTED = 3  # weights that a message names


def load_audio_model(name: str, revision: str | None = None) -> tuple[Any, Any]:
    """The feature extractor and the model of a folder or hub id.

    Raises `ModelError` where transformers cannot load it, or where the file lacks weights of the head, which
    transformers would replace by random ones. Raises `MissingExtraError` without transformers.
    """
    try:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification
    except ImportError as error:
        raise MissingExtraError("transformers", "train") from error
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision, trust_remote_code=False)
        is_custom = any(item in CUSTOM_HEADS for item in config.architectures or ())
        kinds = [AutoModelForAudioClassification]
        if config.model_type == "wav2vec2":
            kinds.insert(0 if is_custom else 1, regression_model())
        missing: list[str] = []
        for kind in kinds:
            model, info = kind.from_pretrained(
                name, revision=revision, output_loading_info=True, trust_remote_code=False
            )
            missing = _missing_in_head(model, info)
            if not missing:
                return extractor, model.eval()
    except Exception as error:  # transformers and torch raise errors of many kinds, such as for a pickle
        raise ModelError(
            f"'{name}' is no audio classifier that transformers can load: {' '.join(str(error).split())}"
        ) from error
    raise ModelError(
        f"'{name}' lacks {len(missing)} weights of its head, such as {missing[:_NUM_LISTED]}: expected a "
        "model that was fine-tuned to classify audio or to predict dimensions"
    )


def _missing_in_head(model: Any, info: dict[str, Any]) -> list[str]:
    """The weights outside of the backbone that the file does not have, or has in another shape."""
    names = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return sorted(key for key in names if not key.startswith(f"{model.base_model_prefix}."))


def regression_model() -> Any:
    """The class of wav2vec 2.0 with the head of its card: mean over time, dense layer, tanh, output layer.

    Wagner et al. 2023, "Dawn of the Transformer Era in Speech Emotion Recognition: Closing the Valence Gap",
    IEEE TPAMI, arXiv 2203.07378. The names of its weights are those of the card of
    audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim.
    """
    import torch
    from torch import Tensor, nn
    from transformers import Wav2Vec2Model, Wav2Vec2PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class RegressionHead(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
            self.dropout = nn.Dropout(config.final_dropout)
            self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

        def forward(self, pooled: Tensor) -> Tensor:
            hidden = torch.tanh(self.dense(self.dropout(pooled)))
            return self.out_proj(self.dropout(hidden))

    class EmotionModel(Wav2Vec2PreTrainedModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.wav2vec2 = Wav2Vec2Model(config)
            self.classifier = RegressionHead(config)
            self.post_init()

        def forward(self, input_values: Tensor, **_: Any) -> SequenceClassifierOutput:
            """The outputs (batch, labels) of normalised waveforms (batch, samples), 16 kHz."""
            pooled = self.wav2vec2(input_values)[0].mean(dim=1)
            return SequenceClassifierOutput(logits=self.classifier(pooled))

    return EmotionModel


def predicted_dimensions(names: Sequence[str], problem_type: str | None, model: str) -> tuple[str, ...]:
    """The dimensions of a model's outputs, in their order; none where it predicts emotions.

    `names` are the names of the outputs, in any case, and `problem_type` is that of config.json. Raises
    `ModelError` for outputs that are neither emotions nor dimensions, or both, or a dimension twice.
    """
    lower = [name.lower() for name in names]
    known = [name for name in lower if name in DIMENSIONS]
    if not known and problem_type != "regression":
        return ()
    if len(known) < len(lower) or len(set(known)) < len(known):
        raise ModelError(
            f"'{model}' has the outputs {list(names)} (problem_type {problem_type}), which are neither "
            f"emotions nor dimensions: expected each name in id2label of config.json to be another one of "
            f"{', '.join(DIMENSIONS)}, with values from 0 to 1"
        )
    return tuple(known)
