"""Checks of a student's settings against the number of layers of its backbone. It imports no torch."""

from emodistill.config import StudentConfig
from emodistill.errors import ConfigError


def pooled_layers(config: StudentConfig, num_layers: int) -> tuple[int, ...]:
    """Return the layers that are pooled; the last one for "mix", which pools all of them."""
    return (num_layers,) if isinstance(config.pool, str) else config.pool


def check_layers(config: StudentConfig, num_layers: int, num_classes: int, name: str = "student") -> None:
    """Raise `ConfigError` where `frozen`, `pool`, `lora` or `probe` do not fit the layers that are used.

    Args:
        num_layers: number of layers that the student uses, of those that its backbone has.
        num_classes: number of emotions.
        name: the section of the recipe, for messages.
    """
    pool_layers = pooled_layers(config, num_layers)
    if config.frozen > num_layers:
        raise ConfigError(
            f"{name}.frozen = {config.frozen}, but the backbone has {num_layers} layers: freeze at most "
            f"{num_layers}"
        )
    if not all(0 <= layer <= num_layers for layer in pool_layers):
        raise ConfigError(
            f"{name}.pool = {list(pool_layers)}, but the backbone's layers are 0 … {num_layers}: "
            "pool some of those"
        )
    if config.lora and max(pool_layers) <= config.frozen:
        raise ConfigError(
            f"{name}.lora adapts layers above {name}.frozen = {config.frozen}, but the student pools "
            f"{list(pool_layers)}: lower {name}.frozen, or set {name}.lora = 0"
        )
    if config.probe is not None and (max(pool_layers) > config.frozen or config.pool == "mix"):
        raise ConfigError(f"a probe reads frozen layers: {name}.pool must list layers up to {config.frozen}")
    if config.probe is not None and config.embedding_dim < num_classes:
        raise ConfigError(
            f"{name}.embedding_dim = {config.embedding_dim}, but a probe needs one dimension for each "
            f"of the {num_classes} emotions: raise it to {num_classes} or more"
        )


def too_few_layers(requested: int, total: int, name: str = "student") -> str:
    """Return the message for a backbone with fewer layers than the recipe wants."""
    return f"{name}.layers = {requested}, but the backbone has {total}: set {name}.layers to at most {total}"
