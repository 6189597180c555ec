"""Exported models on the Hugging Face Hub: fetched by id, and published with their card. Needs [hub]."""

import re
from pathlib import Path

from emodistill.errors import MissingExtraError, ModelError
from emodistill.inference.model_card import MODEL_FILES, card_markdown, read_card


def is_hub_id(text: str) -> bool:
    """Whether this could be a model of the hub: "organisation/name", or "organisation/name@revision"."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@(?!.*\.\.)[\w.+/-]+)?", text) is not None


def split_revision(hub_id: str) -> tuple[str, str | None]:
    """The repository of a hub id and its revision: a branch, tag or commit; None: the main branch."""
    repo_id, _, revision = hub_id.partition("@")
    return repo_id, revision or None


def folder_name(model: str) -> str:
    """A model's last name for a folder: of "organisation/name@a/branch", "name@a-branch"."""
    if not is_hub_id(model):
        return Path(model).name
    repo_id, revision = split_revision(model)
    return Path(repo_id).name + ("" if revision is None else f"@{revision.replace('/', '-')}")


def download_model(hub_id: str) -> Path:
    """The folder of a model of the hub, downloaded or, offline, as it was downloaded before.

    Raises `ModelError` where there is no such model or revision, or no way to it.
    """
    repo_id, revision = split_revision(hub_id)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        what = f"'{hub_id}' is no folder here, and to fetch it from the hub"
        raise MissingExtraError("huggingface_hub", "hub", what) from error
    try:
        found = snapshot_download(repo_id, revision=revision, allow_patterns=[*MODEL_FILES, "README.md"])
    except (OSError, ValueError) as error:  # all of huggingface_hub's errors are one of these
        raise ModelError(
            f"'{hub_id}' is no folder here, and could not be fetched from the hub ({_first_line(error)}); "
            "check the name and the network, or give the folder of an exported model"
        ) from error
    return Path(found)


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True, token: str | None = None) -> str:
    """Publish an exported model with its card; returns where it is.

    The folder is checked first, and `README.md` is written anew from its card. The repository is made where
    there is none, private unless told otherwise; `token` None: that of `hf auth login`. Raises `ModelError`
    where the folder is no exported model, or the hub refuses.
    """
    folder = Path(folder)
    card = read_card(folder)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    (folder / "README.md").write_text(card_markdown(card), encoding="utf-8")
    api = HfApi(token=token)
    try:
        place = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=place.repo_id,
            folder_path=folder,
            allow_patterns=[*MODEL_FILES, "README.md"],
            commit_message=f"{card.name}, exported by EmoDistill {card.versions.get('emodistill', '')}".rstrip(),
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the hub did not take '{repo_id}' ({_first_line(error)}); check the name, the network and the token"
        ) from error
    return str(place)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
