"""Exported models on the Hugging Face Hub: download by id, and publish with a card. Needs [hub]."""

import re
from pathlib import Path

from emodistill.errors import MissingExtraError, ModelError
from emodistill.files import is_in_folder
from emodistill.inference.card_writer import write_readme
from emodistill.inference.hub_metadata import LICENCE_FILE
from emodistill.inference.model_card import HEAD, MODEL_FILES, WEIGHTS, read_card

_FILES = [
    *MODEL_FILES,
    HEAD,
    WEIGHTS,
    "README.md",
    LICENCE_FILE,
]  # of a model, those that are uploaded and downloaded


def is_hub_id(text: str) -> bool:
    """Return whether a text can be a model on the hub: "organisation/name[@revision]"."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@(?!.*\.\.)[\w.+/-]+)?", text) is not None


def split_revision(hub_id: str) -> tuple[str, str | None]:
    """Return the repository and the revision (branch, tag or commit) of a hub id; None: the main branch."""
    repo_id, _, revision = hub_id.partition("@")
    return repo_id, revision or None


def folder_name(model: str) -> str:
    """Return a name for a folder about a model: "name@a-branch" for "organisation/name@a/branch"."""
    if not is_hub_id(model):
        return Path(model).name
    repo_id, revision = split_revision(model)
    return Path(repo_id).name + ("" if revision is None else f"@{revision.replace('/', '-')}")


def download_model(hub_id: str) -> Path:
    """Return the folder of a model on the hub, downloaded now, or offline from an earlier download.

    Raises `ModelError` if the hub has no such model or revision, or cannot be reached, and
    `MissingExtraError` without [hub].
    """
    repo_id, revision = split_revision(hub_id)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        purpose = f"'{hub_id}' is no folder here, and to download it from the hub"
        raise MissingExtraError("huggingface_hub", "hub", purpose) from error
    try:
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=_FILES)
    except (OSError, ValueError) as error:  # All errors of huggingface_hub are one of these.
        raise ModelError(
            f"'{hub_id}' is no folder here, and could not be downloaded from the hub ({_first_line(error)}); "
            "check the name and the network, or give the folder of an exported model"
        ) from error
    return Path(folder)


def download_file(repo_id: str, name: str, revision: str) -> Path:
    """Return the path of one file of a repository on the hub, downloaded now or earlier.

    Raises `ModelError` if the hub has no such file or revision, or cannot be reached, and
    `MissingExtraError` without [hub].
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", f"the download of '{repo_id}'") from error
    try:
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except (OSError, ValueError) as error:  # All errors of huggingface_hub are one of these.
        raise ModelError(
            f"{name} of '{repo_id}', revision '{revision}', could not be downloaded from the hub "
            f"({_first_line(error)}); check the revision and the network, or give a folder that holds it "
            "(--weights FOLDER)"
        ) from error


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True, token: str | None = None) -> str:
    """Publish an exported model with its card, and return its address.

    Check the licences of the training corpora before you publish a model.

    Args:
        folder: the exported model. It is checked first, and its `README.md` is written from its card.
        repo_id: "organisation/name"; the repository is created if it is missing.
        private: whether a new repository is private.
        token: of the Hugging Face Hub; None: the token that `hf auth login` stored.

    Raises:
        ModelError: the folder is not an exported model, one of its files is a link to another folder, or the
            hub refuses the upload.
        MissingExtraError: [hub] is not installed.
    """
    folder = Path(folder)
    for name in _FILES:
        if not is_in_folder(folder / name):
            raise ModelError(f"'{folder / name}' is a link that leaves the folder, and is not published")
    card = read_card(folder)
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    write_readme(card, folder)
    api = HfApi(token=token)
    version = card.versions.get("emodistill", "")
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            allow_patterns=_FILES,
            commit_message=f"{card.name}, exported by EmoDistill {version}".rstrip(),
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the hub refused '{repo_id}' ({_first_line(error)}); check the name, the network and the token"
        ) from error
    return str(address)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
