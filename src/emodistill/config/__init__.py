"""Recipes: TOML files that are checked and become frozen sections."""

from emodistill.config.data_sections import AudioConfig, AugmentConfig, CorpusConfig, ProtocolConfig, Section
from emodistill.config.model_sections import (
    TEACHERS,
    WORDS,
    AcousticConfig,
    DistillationConfig,
    LinguisticConfig,
    OptimConfig,
    ProsodicConfig,
    StudentConfig,
    Teacher,
    VoiceConfig,
    WordsFirstConfig,
)
from emodistill.config.recipe import (
    Recipe,
    RuntimeConfig,
    load_recipe,
    parse_recipe,
    recipe_toml,
    shipped_recipes,
)
from emodistill.config.seeds import stable_seed
from emodistill.config.toml_values import toml_list
from emodistill.config.tuning_sections import TuneConfig, TunedConfig, read_space

__all__ = [
    "TEACHERS",
    "WORDS",
    "AcousticConfig",
    "AudioConfig",
    "AugmentConfig",
    "CorpusConfig",
    "DistillationConfig",
    "LinguisticConfig",
    "OptimConfig",
    "ProsodicConfig",
    "ProtocolConfig",
    "Recipe",
    "RuntimeConfig",
    "Section",
    "StudentConfig",
    "Teacher",
    "TuneConfig",
    "TunedConfig",
    "VoiceConfig",
    "WordsFirstConfig",
    "load_recipe",
    "parse_recipe",
    "read_space",
    "recipe_toml",
    "shipped_recipes",
    "stable_seed",
    "toml_list",
]
