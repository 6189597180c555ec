"""What a server serves, and how much of it: every limit has a status code that says it was met."""

from os import cpu_count
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from emodistill.errors import ConfigError


class Settings(BaseModel):
    """Options of one server. Limits are the server's, over all of its worker processes, but for `threads`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(1, ge=1)
    shared: Path | None = None  # a file in which the workers count rates together

    models: tuple[str, ...] = ("bundled",)  # the first answers where a request names none
    threads: int = Field(cpu_count() or 1, ge=1)  # audio that a worker works on at a time, one thread each
    max_bytes: int = Field(100_000_000, ge=1)  # of a request: 413
    max_files: int = Field(64, ge=1)  # of a request: 422
    max_seconds: float = Field(3600.0, gt=0)  # of a recording, for /v1/timeline: 413
    max_predict_seconds: float = Field(
        600.0, gt=0
    )  # of a recording, for /v1/predict, which holds it whole: 413
    max_requests: int = Field(64, ge=1)  # being received or answered at a time: 503
    max_streams: int = Field(64, ge=1)  # open at a time: 503
    max_stream_seconds: float = Field(4 * 3600.0, gt=0)  # of audio in one stream: closed with 1009
    rate_per_minute: int | None = Field(None, ge=1)  # requests and streams of one client: 429
    idle_s: float = Field(30.0, gt=0)  # without a byte of a request that has begun: 408; of a stream: 1008
    grace_s: float = Field(
        30.0, ge=0, allow_inf_nan=False
    )  # for what is in flight when the server is told to stop
    token: SecretStr | None = None  # wanted from everyone who asks for more than the page or the health: 401
    cors_origins: tuple[str, ...] = ()  # other sites whose pages may call this server
    page: bool = True

    @field_validator("token")
    @classmethod
    def _is_a_token(cls, token: SecretStr | None) -> SecretStr | None:
        """Raises `ConfigError`: an empty one would let everybody in, and others than these fit no header."""
        value = "x" if token is None else token.get_secret_value()
        if not value or not all("!" <= character <= "~" for character in value):
            raise ConfigError(
                "bad token: expected printable ASCII without spaces, and at least one of it; without a token, "
                "leave --token and EMODISTILL_TOKEN away"
            )
        return token

    def of_one_worker(self, limit: int) -> int:
        """A worker's part of a limit on what is done at a time: together they never do more."""
        return max(1, limit // self.workers)
