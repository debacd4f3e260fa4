"""Files and model folders of a hub, `hf://`, and what its client's errors mean.

huggingface_hub, which speaks HTTP by httpx2, is imported on first use only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from components.errors import Transient, UserError, first_line
from components.retry import Backoff, Patience

if TYPE_CHECKING:
    import httpx2

HUB_PATIENCE = Patience(longest_pause_seconds=8.0, give_up_seconds=30.0)
"""As long as the client itself asks for a file; for the list of a folder's files it asks once."""
# A request that took too long or came too early, and one of too many.
_PASSING_STATUSES = (408, 425, 429)


class HubPath(NamedTuple):
    """A file or folder of a hub."""

    kind: str
    """`model` or `dataset`."""
    repository: str
    """`org/name`; models of old have no organisation."""
    revision: str
    path: str
    """Inside the repository; empty: all of it."""


def hf_file(
    uri: str,
    place: HubPath,
    environment: Mapping[str, str],
    patience: Patience = HUB_PATIENCE,
) -> Path:
    """Return the local copy of a file of the hub, in the hub's own cache.

    Args:
        uri: The whole URI, for messages.
        place: What it names.
        environment: HF_ENDPOINT, HF_TOKEN and HF_HUB_CACHE.
        patience: How long to ask a hub that does not answer.

    Raises:
        UserError: The hub has no such file, or refuses it.
        Transient: The hub cannot be reached, or fails, for now.
    """
    if not place.path:
        raise UserError(
            f"{uri}: name one file of the repository, …@{place.revision}/path"
        )
    import huggingface_hub

    def download() -> str:
        path: str = huggingface_hub.hf_hub_download(
            place.repository,
            place.path,
            repo_type=place.kind,
            revision=place.revision,
            token=environment.get("HF_TOKEN"),
            endpoint=environment.get("HF_ENDPOINT"),
            cache_dir=environment.get("HF_HUB_CACHE"),
        )
        return path

    return Path(_fetched(uri, download, patience))


def hf_folder(
    uri: str,
    place: HubPath,
    environment: Mapping[str, str],
    suffixes: tuple[str, ...],
    patience: Patience = HUB_PATIENCE,
) -> Path:
    """Return a local folder with those files of a repository that end in one of the suffixes.

    Arguments and errors are those of `hf_file`.
    """
    import huggingface_hub

    folder_pattern = f"{place.path}/*" if place.path else "*"

    def download() -> str:
        folder: str = huggingface_hub.snapshot_download(
            place.repository,
            repo_type=place.kind,
            revision=place.revision,
            allow_patterns=[f"{folder_pattern}{suffix}" for suffix in suffixes],
            token=environment.get("HF_TOKEN"),
            endpoint=environment.get("HF_ENDPOINT"),
            cache_dir=environment.get("HF_HUB_CACHE"),
        )
        return folder

    return Path(_fetched(uri, download, patience)) / place.path


def _fetched(uri: str, download: Callable[[], str], patience: Patience) -> str:
    """Return what a download returns, which is tried again while the hub fails for now."""
    import httpx2
    from huggingface_hub import errors

    bound_silence(patience)
    backoff = Backoff(patience)
    while True:
        try:
            return download()
        except (
            OSError,
            ValueError,
            RuntimeError,
            errors.EntryNotFoundError,
            errors.HTTPError,
            errors.XetDownloadError,
            httpx2.InvalidURL,
        ) as error:
            causes = list(_causes(error))
            if not _may_pass(causes):
                raise _refused(uri, error) from None
            if not backoff.wait():
                raise _unreachable(uri, causes) from None


@dataclass(frozen=True)
class _BoundedSilence:
    """Hook of an HTTP client: no request waits longer for its server."""

    patience: Patience

    def __call__(self, request: httpx2.Request) -> None:
        """Give a request that has no bounds ours."""
        seconds = self.patience.answer_seconds
        bounds = {
            "connect": self.patience.connect_seconds,
            "read": seconds,
            "write": seconds,
            "pool": seconds,
        }
        own = request.extensions.get("timeout", {})
        given = {name: value for name, value in own.items() if value is not None}
        request.extensions = {**request.extensions, "timeout": {**bounds, **given}}


def bound_silence(patience: Patience) -> None:
    """Have the client of this process wait so long for a silent hub, and no longer."""
    # It asks for the list of a folder's files without any bound, whatever a client's own is.
    import httpx2
    import huggingface_hub

    hooks = [
        hook
        for hook in huggingface_hub.get_session().event_hooks["request"]
        if not isinstance(hook, _BoundedSilence)
    ]
    hooks.append(_BoundedSilence(patience))

    def new_client() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": hooks}, follow_redirects=True, timeout=None
        )

    huggingface_hub.set_client_factory(new_client)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _may_pass(causes: list[BaseException]) -> bool:
    """Return True if the same request may succeed later."""
    import httpx2
    from huggingface_hub import errors

    for cause in causes:
        # Wrong settings: an address without a scheme, an untrusted certificate, no network at all.
        if isinstance(cause, (httpx2.UnsupportedProtocol, errors.OfflineModeIsEnabled)):
            return False
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return False
    for cause in causes:
        if isinstance(cause, errors.HfHubHTTPError):
            status: int = cause.response.status_code
            return status in _PASSING_STATUSES or status >= 500
    # The store of large files (Xet) has a client of its own, which raises RuntimeError.
    passing = (httpx2.TransportError, errors.XetDownloadError, RuntimeError)
    return any(isinstance(cause, passing) for cause in causes)


def _unreachable(uri: str, causes: list[BaseException]) -> Transient:
    # The client's own words are advice about its cache; the cause is what happened.
    cause = (
        causes[1]
        if len(causes) > 1 and isinstance(causes[0], FileNotFoundError)
        else causes[0]
    )
    return Transient(
        f"{uri}: the hub cannot be reached, or fails, for now ({type(cause).__name__}: "
        f"{first_line(cause)}); try again later, check HF_ENDPOINT and the proxy, or download it "
        "and use file://"
    )


def _refused(uri: str, error: BaseException) -> UserError:
    return UserError(
        f"{uri}: cannot be fetched from the hub ({type(error).__name__}: {first_line(error)}); "
        "check the name and revision and HF_ENDPOINT, set HF_TOKEN for a private one, or download "
        "it and use file://"
    )
