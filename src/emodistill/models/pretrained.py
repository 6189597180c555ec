"""Finds a pretrained model of Hugging Face before anything is loaded: a folder, the local cache, or the hub.

It imports no torch and no transformers, so a missing model is an error within a second.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from emodistill.errors import MissingExtraError, ModelError
from emodistill.reading import MAX_JSON_BYTES, parse_json, read_bytes

CONFIG = "config.json"
_WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "*.bpe.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model that was found."""

    config: dict[str, Any]  # the content of config.json
    folder: Path | None  # holds all files; None: they are downloaded from the hub when the model is loaded

    @property
    def num_layers(self) -> int | None:
        """The number of layers; None where config.json does not state it."""
        value = self.config.get("num_hidden_layers", self.config.get("encoder_layers"))
        return value if isinstance(value, int) else None


def find_pretrained(name: str, field: str, with_tokenizer: bool = False) -> Pretrained:
    """Find a model by folder or hub id. One request is made at most, for a hub id that is not cached.

    Args:
        name: a folder, or a hub id such as "openai/whisper-base".
        field: the field of the recipe that names it, for messages.
        with_tokenizer: whether the model needs a tokenizer.

    Raises `ModelError` for a folder that is missing or incomplete, and for a hub id that the hub does not
    have. It does so too where a hub id is not cached and the hub cannot be reached.
    """
    where = f"{field} = '{name}'"
    wanted = (_WEIGHTS, _TOKENIZERS) if with_tokenizer else (_WEIGHTS,)
    folder = Path(name)
    if folder.is_dir():
        for names in ((CONFIG,), *wanted):
            if not _holds_one_of(folder, names):
                raise ModelError(
                    f"{where}: the folder has no {names[0]}, expected a model as transformers saves it, with "
                    f"{CONFIG} and model.safetensors{' and a tokenizer' if with_tokenizer else ''}"
                )
        return Pretrained(_read_config(_content(folder / CONFIG, where), where), folder)
    if not _HUB_ID.fullmatch(name) or (folder.parent != Path() and folder.parent.is_dir()) or folder.exists():
        raise ModelError(
            f"{where}: no such folder; expected a folder that holds {CONFIG} and model.safetensors, or a hub "
            "id such as openai/whisper-base"
        )
    cached = cached_folder(name, with_tokenizer)
    if cached is not None:
        return Pretrained(_read_config(_content(cached / CONFIG, where), where), cached)
    return Pretrained(_read_config(_config_from_hub(name, where), where), None)


def cached_folder(name: str, with_tokenizer: bool = False) -> Path | None:
    """Return the folder in the local cache of the hub that holds all files of a hub id, or None."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "train") from error
    if not _HUB_ID.fullmatch(name):
        return None
    config = try_to_load_from_cache(name, CONFIG)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    wanted = (_WEIGHTS, _TOKENIZERS) if with_tokenizer else (_WEIGHTS,)
    return folder if all(_holds_one_of(folder, names) for names in wanted) else None


def folder_or_id(name: str, with_tokenizer: bool = False) -> str:
    """Return the folder in the local cache for a hub id that is complete there, else the name itself.

    Loading from a folder makes no request, so a run does not wait for a hub that cannot be reached.
    """
    folder = None if Path(name).is_dir() else cached_folder(name, with_tokenizer)
    return name if folder is None else str(folder)


def _holds_one_of(folder: Path, patterns: Iterable[str]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _content(path: Path, where: str) -> bytes:
    try:
        return read_bytes(path, MAX_JSON_BYTES)
    except OSError as error:
        raise ModelError(f"{where}: its {CONFIG} cannot be read: {error.strerror}") from error


def _read_config(content: bytes, where: str) -> dict[str, Any]:
    try:
        config = parse_json(content)
    except ValueError as error:
        raise ModelError(f"{where}: its {CONFIG} is no JSON ({error}); download the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{where}: its {CONFIG} is no object; download the model again")
    return config


def _config_from_hub(name: str, where: str) -> bytes:
    """Download config.json of a hub id in one request, without retries."""
    from huggingface_hub import constants, get_token

    advice = (
        "give a folder that holds config.json and model.safetensors, or go online once so that the hub id "
        "can be downloaded"
    )
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{where}: no such folder, and not in the local cache of the hub, while HF_HUB_OFFLINE is set: "
            f"{advice}"
        )
    token = get_token()
    request = Request(f"{constants.ENDPOINT}/{name}/resolve/main/{CONFIG}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=_HUB_TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content
    except HTTPError as error:
        raise ModelError(
            f"{where}: no such folder, and the hub answers {error.code} ({error.reason}) for this id; check "
            "the name, and log in (hf auth login) if the model is private"
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"{where}: no such folder, not in the local cache, and the hub cannot be reached ({reason}): "
            f"{advice}"
        ) from error
