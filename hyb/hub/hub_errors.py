"""What a hub's refusals mean, in words that say who must act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyb.errors import Exit, HybError
from hyb.hub.download import RETRIED, Wanted, retry_after
from hyb.hub.names import HF

TOKEN = "put a token of yours into the environment variable `HF_TOKEN`"


@dataclass(frozen=True)
class Refused:
    """Makes the error for a file that the hub does not give."""

    source: HF
    endpoint: str

    def __call__(self, status: int, headers: Mapping[str, str], wanted: Wanted) -> HybError:
        """The error for `status`, whose meaning a hub puts into `X-Error-Code`."""
        code = headers.get("X-Error-Code", "")
        if code == "GatedRepo" or status in (401, 403):
            return gated(self.source, self.endpoint, status)
        if code == "RevisionNotFound":
            return no_revision(self.source, self.endpoint)
        if code == "RepoNotFound":
            return no_repo(self.source, self.endpoint)
        if status == 404:
            return HybError(
                f"`{wanted.path}` is in the hub's list of `{self.source}`, but is not there (404)",
                hint=f"the hub or mirror `{self.endpoint}` has only a part of this model",
                code=Exit.BELOW,
            )
        return HybError(f"`{self.endpoint}` answered {status} for `{wanted.path}`", code=Exit.BELOW)


def wait_for(error: Exception) -> float | None:
    """Seconds to wait before the API is asked again (0: the usual), None when asking again is of no use."""
    import httpx2

    if isinstance(error, httpx2.TransportError) and "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return 0.0
    response = getattr(error, "response", None)
    if response is not None and response.status_code in RETRIED:
        return retry_after(response.headers)
    return None


def explained(error: Exception, source: HF, endpoint: str) -> HybError:
    """The HybError for an exception of huggingface_hub or its HTTP client."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.GatedRepoError):
        return gated(source, endpoint, status)
    if isinstance(error, errors.RevisionNotFoundError):
        return no_revision(source, endpoint)
    if isinstance(error, errors.RepositoryNotFoundError):
        return no_repo(source, endpoint)
    if status in (401, 403):
        return gated(source, endpoint, status)
    if status:
        return HybError(f"`{endpoint}` answered {status} for `{source}`", hint="try again later", code=Exit.BELOW)
    if isinstance(error, ValueError):
        return HybError(
            f"`{endpoint}` answered for `{source}` with no hub's JSON: is it a login or captive portal page?",
            hint="open the address in a browser and log in, or check the proxy settings and `HF_ENDPOINT`",
        )
    return HybError(
        f"`{endpoint}` can't be reached: {error}",
        hint="check the network, the proxy settings and `HF_ENDPOINT`; without a network use `--offline` and a store",
        code=Exit.BELOW,
    )


def gated(source: HF, endpoint: str, status: int) -> HybError:
    """A model for which the user must be known and have agreed to its terms."""
    page = f"{endpoint}/{source.repo}"
    return HybError(
        f"`{source.repo}` is gated or private: the hub refused it ({status})",
        hint=f"ask for access on {page}, then {TOKEN}",
    )


def no_repo(source: HF, endpoint: str) -> HybError:
    """No such model, as far as this user may know."""
    return HybError(
        f"`{endpoint}` has no model `{source.repo}`, or it is private",
        hint=f"check the name on {endpoint}/{source.repo}; for a private model {TOKEN}",
    )


def no_revision(source: HF, endpoint: str) -> HybError:
    """The model is there, the branch, tag or commit is not."""
    return HybError(
        f"model `{source.repo}` has no revision `{source.revision}`",
        hint=f"its branches and tags are on {endpoint}/{source.repo}/tree/main",
    )
