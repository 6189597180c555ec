"""Settings of a server: the models that it serves, and its limits."""

from os import cpu_count
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from emodistill.audio.providers import CPU, check_provider
from emodistill.errors import ConfigError


class Settings(BaseModel):
    """Settings of one server. The comment of a limit ends with the status that a client gets beyond it.

    A limit holds for the whole server, over all its worker processes. Only `threads` is per worker.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(1, ge=1)  # processes
    rate_limit_file: Path | None = None  # lets the workers count requests together
    jobs_file: Path | None = None  # lets every worker answer about the jobs of all workers

    models: tuple[str, ...] = ("bundled",)  # the first one answers requests that name no model
    provider: str = CPU  # the hardware that runs the models, see `audio.providers`
    threads: int = Field(cpu_count() or 1, ge=1)  # recordings that one worker processes at the same time
    max_bytes: int = Field(250_000_000, ge=1)  # of a request: 413; an hour of stereo WAV at 16 kHz has 230 MB
    max_files: int = Field(64, ge=1)  # of a request: 422
    max_seconds: float = Field(3600.0, gt=0)  # of a recording in /v1/timeline: 413
    # Of a recording in /v1/predict: 413. That endpoint holds the whole recording in memory.
    max_predict_seconds: float = Field(600.0, gt=0)
    max_requests: int = Field(64, ge=1)  # in progress at the same time: 503
    max_streams: int = Field(64, ge=1)  # open at the same time: 503
    max_stream_seconds: float = Field(4 * 3600.0, gt=0)  # of audio in one stream: close code 1009
    rate_per_minute: int | None = Field(None, ge=1)  # requests and streams of one client: 429
    idle_s: float = Field(30.0, gt=0)  # without a byte of an unfinished request: 408; of a stream: 1008
    # Time for requests and streams in progress to finish when the server stops.
    grace_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    token: SecretStr | None = None  # required for everything but the page and the health checks: 401
    cors_origins: tuple[str, ...] = ()  # other sites whose pages may call this server
    page: bool = True  # serve the web page

    @field_validator("provider")
    @classmethod
    def _check_provider(cls, provider: str) -> str:
        """Raises `ConfigError`: this install does not have the provider."""
        return check_provider(provider)

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        """Raises `ConfigError`: an empty token lets everybody in, other characters do not fit a header."""
        value = "x" if token is None else token.get_secret_value()
        if not value or not all("!" <= character <= "~" for character in value):
            raise ConfigError(
                "bad token: expected printable ASCII without spaces, at least one character; to serve "
                "without a token, remove --token and EMODISTILL_TOKEN"
            )
        return token

    def per_worker(self, limit: int) -> int:
        """One worker's share of a limit on work at the same time, at least 1."""
        return max(1, limit // self.workers)
