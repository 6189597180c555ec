"""Checks of who may call the server: the bearer token, and the site that a browser's page comes from."""

import hmac
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers

from emodistill.serving.problems import RequestRefused


def check_authorization(headers: Headers, token: SecretStr | None) -> None:
    """Check the `Authorization` header against the server's token, if it has one.

    Raises `RequestRefused` (401).
    """
    if token is None:
        return
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not is_token(credentials.strip(), token):
        raise RequestRefused(
            401, "unauthorised", "expected the header 'Authorization: Bearer TOKEN' with this server's token",
            {"WWW-Authenticate": 'Bearer realm="emodistill"'},
        )  # fmt: skip


def is_token(candidate: str, token: SecretStr) -> bool:
    """Whether `candidate` is the server's token.

    The time does not depend on the number of characters that are right, so nobody can guess them one by one.
    """
    # JSON may hold half of a surrogate pair, which strict UTF-8 cannot encode.
    return hmac.compare_digest(candidate.encode("utf-8", "surrogatepass"), token.get_secret_value().encode())


def check_origin(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Check the `Origin` header of a WebSocket request. Raises `RequestRefused` (403).

    A browser lets any page open a WebSocket to any server, so the server itself refuses pages of other sites.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # not an address
        host = ""
    if not host or host != headers.get("host"):
        detail = "pages of this site may not open streams on this server; the option --cors allows a site"
        raise RequestRefused(403, "origin", detail)
