"""A folder sent to a new model repository on the Hub by the Hub's own client: one commit, private unless asked otherwise; and what to
say where the Hub takes nothing.

Honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and a login. Nothing that a repository holds is overwritten.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from engine import hub, paths
from engine.errors import BadInput, EngineError
from engine.events import Progress

_OF_A_NEW_REPOSITORY = {".gitattributes"}
_HOW = (
    "Make a token with write permission at https://huggingface.co/settings/tokens, then set HF_TOKEN to it (or run `hf auth login`) "
    "and try again."
)


def check(repo: str) -> None:
    """Refuse, before any work, what cannot be pushed: a name that is none, no token, offline. No request is made."""
    check_name(repo)
    token(", or export to a folder")


def check_name(repo: str) -> None:
    """Refuse a name that no repository can have."""
    if not hub.HUB_ID.fullmatch(repo):
        raise BadInput(f"{repo!r} is no name of a repository on the Hub. Give owner/name.")


def token(instead: str = "") -> str:
    """The person's token. Raises BadInput where there is none, EngineError where the Hub is not to be asked; `instead` says what else
    could be done. No request is made."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise EngineError(f"HF_HUB_OFFLINE forbids to send anything to the Hub. Unset it and try again{instead}.")
    found = get_token()
    if not found:
        raise BadInput(f"The Hub wants to know who you are, and there is no token. {_HOW}")
    return found


def push(folder: Path, repo: str, public: bool, message: str, report: hub.Report) -> str:
    """Send all files of a folder but its manifest; the repository's address is given back. Raises BadInput where there is one with
    files already, EngineError with what to do where the Hub refuses or cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check(repo)
    with explained(repo):
        report(Progress(f"Making the {'public' if public else 'private'} repository {repo}", None))
        try:
            address = str(HfApi().create_repo(repo, private=not public))
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            address = _begun(repo, public)
        report(Progress(f"Sending {repo}", None))
        HfApi().upload_folder(folder_path=folder, repo_id=repo, commit_message=message, ignore_patterns=[paths.MANIFEST])
    return address


def _begun(repo: str, public: bool) -> str:
    """The address of a repository that an earlier attempt made and left empty."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo)
    if {file.rfilename for file in info.siblings or ()} - _OF_A_NEW_REPOSITORY:
        raise BadInput(f"{repo} is on the Hub already and holds files, which are not overwritten. Choose another name.")
    if info.private == public:
        raise BadInput(f"{repo} is on the Hub already, and {'private' if public else 'public'}. Choose another name, or delete it first.")
    return f"{HfApi().endpoint}/{repo}"


@contextlib.contextmanager
def explained(repo: str, failed: str = "was not pushed") -> Iterator[None]:
    """Turn the Hub client's errors into a sentence with what to do: `repo`, what `failed` of it, and why."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        owner = repo.partition("/")[0] if hub.HUB_ID.fullmatch(repo) else ""
        why = {
            401: f"the Hub does not accept the token. {_HOW}",
            402: "the account has no credit for it. Add some at https://huggingface.co/settings/billing and try again.",
            403: f"the token may not {f'write to {owner}' if owner else 'do that'}. {_HOW}",
            404: f"the Hub knows no {f'owner {owner}' if owner else 'such thing'}, or the token may not write there. {_HOW}",
            429: "too many requests. Try again later.",
        }
        told = why.get(status, f"the Hub answered {status}. Try again later.")
        raise EngineError(f"{repo} {failed}: {told}") from error
    except errors.HFValidationError as error:
        raise BadInput(f"{repo!r} cannot be the name of a repository on the Hub: {str(error).splitlines()[0][:200]}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"{repo} {failed}: {str(error).strip().splitlines()[0][:200]}. Check the connection and try again.") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in hub.HTTP_LIBRARIES:
            raise
        raise EngineError(
            f"{repo} {failed}: the Hub cannot be reached ({type(error).__name__}). Check the connection and try again."
        ) from error
