"""Checks of who may call the server: the bearer token, and the site that a browser's page comes from."""

import hmac
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers

from emodistill.serving.problems import Refused


def check_authorization(headers: Headers, token: SecretStr | None) -> None:
    """Check the `Authorization` header against the server's token. Raises `Refused` (401)."""
    if token is None:
        return
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not is_token(credentials.strip(), token):
        raise Refused(
            401, "unauthorised", "this server wants the header Authorization: Bearer TOKEN",
            {"WWW-Authenticate": 'Bearer realm="emodistill"'},
        )  # fmt: skip


def is_token(candidate: str, token: SecretStr) -> bool:
    """Whether a client's token is the server's. The time does not depend on the number of equal characters."""
    # JSON may hold half of a surrogate pair, which strict UTF-8 cannot encode.
    return hmac.compare_digest(candidate.encode("utf-8", "surrogatepass"), token.get_secret_value().encode())


def check_origin(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Check the `Origin` header of a WebSocket request. Raises `Refused` (403).

    A browser lets any page open a WebSocket to any server, so the server refuses pages of other sites itself.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # not an address
        host = ""
    if not host or host != headers.get("host"):
        raise Refused(403, "origin", "pages of this site may not open streams here; see --cors")
