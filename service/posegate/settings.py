"""One validated settings class: flags, then `POSEGATE_*`, then a TOML file."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from posegate.errors import BadOption
from posegate.validation import first_fault

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
PREFIX = "POSEGATE_"
MAX_PORT = 65535
OTHER_VARIABLES = {"POSEGATE_CONFIG", "POSEGATE_API_KEY"}
"""The file of settings, and the key that the commands send to a service."""
SERVICE_LINK = re.compile(
    r"POSEGATE_(.+_)?(SERVICE_HOST=|SERVICE_PORT(_.+)?=|PORT_[0-9]+_.+=|PORT=[a-z]+://).*"
)
"""Variables that Kubernetes sets in every pod for Services of such names. A bare port is none of
them: `POSEGATE_PORT=8080` is a setting that somebody misspelt."""


def _is_sha256(secret: SecretStr) -> SecretStr:
    if not re.fullmatch("[0-9a-fA-F]{64}", secret.get_secret_value()):
        raise ValueError("must be the SHA-256 of a key, 64 hex digits (printf KEY | sha256sum)")
    return secret


Sha256 = Annotated[SecretStr, AfterValidator(_is_sha256)]


def _parts(text: str) -> tuple[str, ...]:
    """A lone dash is what `sha256sum` puts behind the hash of its standard input."""
    return tuple(part for part in text.replace(",", " ").split() if part != "-")


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_model_repository() -> Path:
    """`model_repository` in the working folder, else beside the source tree, else in the package.

    The last one is where a wheel puts the shipped networks.
    """
    package = Path(__file__).parent
    places = (Path.cwd(), package.parents[1], package)
    found = [place / "model_repository" for place in places]
    return next((folder for folder in found if folder.is_dir()), found[0])


class Settings(BaseSettings):
    """Everything that can be set. Built once, in the command line, and passed down."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: Annotated[str, Field(pattern=r"^\S+$")] = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=MAX_PORT)] = 8080
    grpc_port: Annotated[int, Field(ge=0, le=MAX_PORT)] = 8081
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    model_repository: Path = Field(default_factory=find_model_repository)
    model: str | None = Field(None, description="default pose network instead of the cards' own")
    detector: str | None = Field(None, description="default detector instead of the cards' own")

    backend: Literal["onnx", "triton"] = Field("onnx", description="what runs the networks")
    triton_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1:8001",),
        description="gRPC addresses host:port of Triton, comma-separated; each address behind a "
        "name is a server of its own",
    )
    triton_in_flight: Count = Field(64, description="most requests to Triton per network at a time")
    triton_shared_memory: Literal["off", "system", "cuda"] = Field(
        "off",
        description="tensors to and from a Triton on this machine: off (in messages), system "
        "(/dev/shm) or cuda (GPU memory); each address must then be one server",
    )

    api_key_sha256: Annotated[tuple[Sha256, ...], NoDecode] = Field(
        (),
        description="SHA-256 of each API key, in hex, comma-separated; none: no key is asked for",
    )

    tls_certificate: Path | None = Field(
        None, description="PEM file, the chain of both faces' certificate; none: no encryption"
    )
    tls_key: Path | None = Field(None, description="PEM file, the certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file; callers must show a certificate that it signed (mutual TLS)"
    )

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = Field(
        None, description="OTLP/HTTP address for traces, http://host:4318; none: no traces are made"
    )
    trace_share: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of requests to trace, of those that name no trace of their own"
    )

    max_body_bytes: Annotated[int, Field(ge=1, le=2**30 - 1)] = 20 * 2**20
    max_pixels: Count = 50_000_000
    max_decoded_pixels: Count = Field(
        100_000_000,
        description="most pixels of decoded pictures at a time, 3 bytes each; further ones wait",
    )
    max_people: Count = Field(100, description="most people answered per picture")
    request_timeout_s: Seconds = 30.0
    keep_alive_s: Count = Field(
        30, description="longest time between two requests, and for a request's head to come"
    )

    workers: Count = Field(
        1, description="processes that serve; they share the threads, other limits hold for each"
    )
    threads: Count = Field(default_factory=cores, description="cores the networks may use")
    # CPU ms per 256x192 crop on one core in batches of 1, 2, 4, 8: 14.2, 14.4, 17.1, 20.6. So on
    # CPUs small batches are best, and no worker should stand idle to fill one.
    max_batch: Count = Field(2, description="most crops run through a network together")
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = Field(
        0.0, description="longest wait for company, only while other batches run"
    )
    network_idle_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = Field(
        300.0,
        description="seconds without a crop after which a network that is not the default gives "
        "its memory back, until it is asked again; 0: all stay loaded (backend onnx)",
    )
    max_queue: Count = Field(512, description="most crops waiting for a network")
    max_images: Count = Field(
        64,
        description="most requests for poses at a time; a batch is one, and works on 4 of its "
        "pictures at a time; streams come on top",
    )
    max_in_flight: Count = Field(2, description="frames of one stream worked on at a time")
    max_streams: Count = Field(16, description="most streams open at a time")
    max_stream_fps: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = Field(
        60.0, description="most frames a second of one stream"
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("model_repository", "tls_certificate", "tls_key", "tls_client_ca")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return path and _expanded(path)

    @field_validator("triton_urls", "api_key_sha256", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return _parts(value) if isinstance(value, str) else value

    @field_validator("api_key_sha256", mode="before")
    @classmethod
    def _given_keys_are_some(cls, value: Any) -> Any:
        """A variable that a script left empty by mistake must not open the service."""
        if isinstance(value, str) and not _parts(value):
            raise ValueError("holds no key; leave it out where everybody may call")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """TOML's `true` would count as 1."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and field.annotation is not bool:
            raise ValueError("true and false are no value of this setting")
        return value

    @field_serializer("otlp_endpoint", when_used="json")
    def _without_password(self, url: str | None) -> str | None:
        return url and re.sub(r"\?.+", "?***", re.sub(r"//[^/?]*@", "//***@", url))

    @field_validator("triton_urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [
            url
            for url in urls
            if not re.fullmatch(r"(dns:///)?[^/\s]+:\d{1,5}", url)
            or not 0 < int(url.rpartition(":")[2]) <= MAX_PORT
        ]
        if wrong or not urls:
            raise ValueError(f"needs host:port of at least one Triton, without http://: {wrong}")
        return urls

    @model_validator(mode="after")
    def _faces_have_ports_of_their_own(self) -> Self:
        if self.http_port == self.grpc_port != 0:
            raise ValueError(
                f"http_port and grpc_port are both {self.http_port}; give each face its own port"
            )
        return self

    @model_validator(mode="after")
    def _queue_holds_one_picture(self) -> Self:
        if self.max_queue < 2 * self.max_people:
            raise ValueError(
                f"max_queue is {self.max_queue}; it must be at least twice max_people, "
                f"{2 * self.max_people} (flip_test needs it)"
            )
        return self

    @model_validator(mode="after")
    def _tls_files_come_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from flags, the environment and a TOML file; BadOption says which value is wrong.

    A flag that is None counts as not given. Without `config` the file named by POSEGATE_CONFIG is
    read, if any.
    """
    environment = {name.upper(): value for name, value in os.environ.items()}
    _refuse_unknown(environment)
    _refuse_empty(environment)
    if config is None and (named := os.environ.get(PREFIX + "CONFIG")) is not None:
        config = Path(named)
    file = _read_toml(_expanded(config)) if config is not None else {}
    _refuse_other_capitals(file)
    lower = {key: value for key, value in file.items() if PREFIX + key.upper() not in environment}
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return Settings(**{**lower, **given})
    except ValidationError as error:
        one = "setting " if error.errors()[0]["loc"] else ""
        raise BadOption(one + first_fault(error, "settings")) from error


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """A misspelt setting must not be ignored in silence: it may be the one with the API keys."""
    known = {PREFIX + field.upper() for field in Settings.model_fields} | OTHER_VARIABLES
    for name in sorted(environment.keys() - known):
        if name.startswith(PREFIX) and not SERVICE_LINK.fullmatch(f"{name}={environment[name]}"):
            fields = [field.upper() for field in Settings.model_fields]
            near = difflib.get_close_matches(name.removeprefix(PREFIX), fields, n=1)
            raise BadOption(
                f"the environment variable {name} is no setting"
                + (f"; did you mean {PREFIX}{near[0]}?" if near else "")
                + " (`posegate serve --print-settings` shows all settings)"
            )


def _refuse_empty(environment: Mapping[str, str]) -> None:
    """A variable that a script left empty by mistake is no value; the keys have their own check."""
    for field in (Settings.model_fields.keys() - {"api_key_sha256"}) | {"config"}:
        if not environment.get(name := PREFIX + field.upper(), "set").strip():
            raise BadOption(
                f"the environment variable {name} is empty; give a value or leave it out"
            )


def _refuse_other_capitals(file: Mapping[str, Any]) -> None:
    """Pydantic would accept `HOST` as `host`, and let the file win over flags and variables."""
    for key in sorted(file.keys() - Settings.model_fields):
        if key.lower() in Settings.model_fields:
            raise BadOption(f"setting {key}: there is no such field; did you mean {key.lower()}?")


def _expanded(path: Path) -> Path:
    """The path with its `~` replaced, which neither systemd units nor env files do."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path's own raises where there is no home


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadOption(f"settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"settings file {path} is not TOML: {error}") from error
