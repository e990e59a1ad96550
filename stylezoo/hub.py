"""Model folders on the Hugging Face Hub: one file of a repository in, a folder out.

Nothing here knows models: `stylezoo.checkpoints.load_model` and `StyleModel.push_to_hub` do. ``huggingface_hub`` is the extra
``hub``, imported when a repository is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stylezoo.errors import MissingFileError, StylezooError

PREFIX = "hf-hub:"
"""What marks the name of a repository where a system, a file or a folder could be meant, as in timm."""

WEIGHTS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
"""The files of a model folder."""


def repository(name: str) -> str | None:
    """Returns the repository that a name with the prefix ``hf-hub:`` stands for; None for other names.

    >>> repository("hf-hub:someone/adain-flowers"), repository("adain.slim")
    ('someone/adain-flowers', None)

    Raises:
        StylezooError: If what follows the prefix is no repository.
    """
    return checked(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def looks_like_repository(name: str) -> bool:
    """Whether a name has the form OWNER/NAME, which is also that of a path.

    >>> looks_like_repository("someone/adain-flowers"), looks_like_repository("runs/adain/last.ckpt")
    (True, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def checked(repo_id: str) -> str:
    """Returns the name of a repository.

    Raises:
        StylezooError: If it has not the form OWNER/NAME.
    """
    if not looks_like_repository(repo_id):
        raise StylezooError(f"A repository of the Hugging Face Hub is called OWNER/NAME, not {repo_id!r}.")
    return repo_id


def download(
    repo_id: str, *, revision: str | None = None, local_files_only: bool = False, token: str | None = None
) -> Path:
    """Downloads the weights of a model, unless the cache of ``huggingface_hub`` has them.

    Args:
        repo_id: OWNER/NAME.
        revision: Branch, tag or commit; None takes the default branch.
        local_files_only: Whether only the cache may be used.
        token: Access token; None takes the one that ``hf auth login`` has stored.

    Returns:
        Path of the file in the cache.

    Raises:
        MissingFileError: If there is no such repository or revision, or it has no model of stylezoo.
        StylezooError: If ``huggingface_hub`` is not installed, or the Hub cannot be reached.
    """
    library = _library()
    with _told(f"{WEIGHTS} of {repo_id}"):
        path = library.hf_hub_download(
            checked(repo_id), WEIGHTS, revision=revision, local_files_only=local_files_only, token=token
        )
    return Path(path)


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads a folder, and creates the repository if it does not exist; a card that it has stays as it is.

    Args:
        folder: The files.
        repo_id: OWNER/NAME.
        private: Whether a new repository is private; None takes the default of its owner.
        revision: Branch; None takes the default one.
        message: Of the commit.
        token: See `download`.

    Returns:
        Address of the commit.

    Raises:
        MissingFileError: If there is no such revision.
        StylezooError: If ``huggingface_hub`` is not installed, or the Hub refuses or cannot be reached.
    """
    library = _library()
    with _told(f"The repository {repo_id}"):
        api = library.HfApi(token=token)
        api.create_repo(checked(repo_id), private=private, exist_ok=True)
        has_card = api.file_exists(repo_id, CARD, revision=revision)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            ignore_patterns=[CARD] if has_card else None,
            commit_message=message or "Upload a model of stylezoo",
        )
    return str(commit.commit_url)


def cache_folder() -> Path | None:
    """Returns the folder in which ``huggingface_hub`` keeps what it downloads; None if it is not installed."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    return Path(HF_HUB_CACHE)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise StylezooError(
            'The Hugging Face Hub needs the library huggingface_hub: pip install "stylezoo[hub]".'
        ) from error
    return huggingface_hub


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Raises the errors of ``huggingface_hub`` again as one sentence that begins with ``what``."""
    from huggingface_hub import errors

    try:
        yield
    except StylezooError:
        raise
    except errors.GatedRepoError as error:
        raise StylezooError(f"{what} is for users who have accepted its terms on the Hub, and log in.") from error
    except errors.RepositoryNotFoundError as error:
        raise MissingFileError(
            f"{what} is not on the Hub: check the spelling, and log in (hf auth login) if the repository is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MissingFileError(f"{what} does not exist in that revision: name a branch, a tag or a commit.") from error
    except errors.LocalEntryNotFoundError as error:
        raise MissingFileError(
            f"{what} is not in the cache of this machine, and the Hub was not asked or does not answer: try again"
            " with a connection, or give a folder (save_pretrained)."
        ) from error
    except errors.EntryNotFoundError as error:
        raise MissingFileError(f"{what} does not exist: the repository holds no model of stylezoo.") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalTokenNotFoundError) as error:
        raise StylezooError(f"{what} cannot be used: {_reason(error)}") from error
    except Exception as error:  # the HTTP library behind it differs between versions
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in ("httpx", "requests"):
            raise
        raise StylezooError(f"{what} cannot be transferred: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return words if words.endswith(".") else f"{words}."
