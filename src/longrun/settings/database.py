"""Settings of the database: how it is reached, and what is kept in it, how."""

import re
from pathlib import Path
from typing import Final, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from longrun.key_ring import KeyRing
from longrun.settings.sections import YEAR, Section


class Database(Section):
    """Where everything is stored, how to connect to it, and how long it is kept."""

    database_url: SecretStr | None = Field(
        default=None,
        description="Postgres, as a libpq URL; `sslmode`, `sslrootcert`, `sslcert` and `sslkey` "
        "configure TLS. If there are several hosts, the primary is used. Unset: an embedded "
        "Postgres.",
    )
    listen_database_url: SecretStr | None = Field(
        default=None,
        description="Direct connection for LISTEN, if database_url goes through a pooler in "
        "transaction mode. Unset: database_url.",
    )
    read_database_url: SecretStr | None = Field(
        default=None,
        description="A hot standby for polls and replays of finished responses. Whatever it "
        "lacks, or does not return in time, is read from database_url. Unset: everything is.",
    )
    data_dir: Path = Field(
        default=Path(".longrun"), description="Directory of the embedded Postgres."
    )
    db_schema: str = Field(
        default="longrun",
        validation_alias="LONGRUN_SCHEMA",
        description="Postgres schema that holds all tables.",
    )
    cell: str = Field(
        default="00",
        description="Which of several clusters this is: two hex digits at the end of the ids that "
        "are made here, so that a proxy can route by id.",
    )
    auto_migrate: bool = Field(default=True, description="Apply pending migrations at start.")
    pool_size: int = Field(
        default=10,
        ge=2,
        le=1000,
        description="Maximum number of Postgres connections for requests (the log and the lease "
        "use five more, and a sixth for a run that is written alone).",
    )
    statement_cache_size: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="Prepared statements cached per connection; 0 for poolers that do not "
        "support them.",
    )
    encryption_keys: SecretStr | None = Field(
        default=None,
        description="Keys that encrypt stored content, as `id:base64` of 32 bytes each. The first "
        "one encrypts (`plain` in its place: nothing is encrypted), all of them decrypt. Unset: "
        "nothing is encrypted.",
    )
    encryption_keys_file: Path | None = Field(
        default=None, description="File that contains encryption_keys, instead of the variable."
    )
    retention_days: float = Field(
        default=30.0,
        gt=0,
        le=36_600,
        description="How long a finished response is kept for polls and replays, in days.",
    )
    partition_days: float | None = Field(
        default=None,
        ge=1 / 24,
        le=36_600,
        description="How many days of responses are stored together, and dropped together once "
        "they have expired. Unset: a quarter of the retention, but at least one.",
    )
    event_retention: float | None = Field(
        default=None,
        gt=0,
        le=100 * YEAR,
        description="How long the deltas of a finished response are kept, in seconds; after that "
        "its stream replays whole items. Unset: as long as the response.",
    )
    conversation_retention: float | None = Field(
        default=None,
        gt=0,
        le=100 * YEAR,
        description="How long a conversation is kept after its last use, in seconds. Unset: until "
        "it is deleted.",
    )

    @property
    def partition_seconds(self) -> float:
        """How much time is between the bounds of a partition."""
        return 86_400 * (self.partition_days or max(1.0, self.retention_days / 4))

    @property
    def leave_seconds(self) -> float:
        """How long at most what has expired waits for its partition to be dropped."""
        return min(self.partition_seconds, 86_400 * self.retention_days / 4)

    @field_validator("database_url", "listen_database_url", "read_database_url")
    @classmethod
    def _is_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_postgres_url(value.get_secret_value()):
            raise PydanticCustomError(
                "postgres_url",
                "not a Postgres URL like postgresql://user:password@host:5432/database (in user "
                "and password, # is written %23, / %2F, : %3A, ? %3F, @ %40)",
            )
        return value

    @model_validator(mode="after")
    def _has_a_primary(self) -> Self:
        if self.read_database_url is not None and self.database_url is None:
            raise PydanticCustomError(
                "standby",
                "LONGRUN_READ_DATABASE_URL needs LONGRUN_DATABASE_URL: the standby's primary",
            )
        return self

    @field_validator("db_schema")
    @classmethod
    def _is_identifier(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,47}", value) or value.startswith("pg_"):
            raise PydanticCustomError(
                "identifier",
                "a schema name has at most 48 characters, all of a-z, 0-9 and _, does not begin "
                "with a digit, and does not begin with pg_",
            )
        return value

    @field_validator("cell")
    @classmethod
    def _is_cell(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{2}", value):
            raise PydanticCustomError("cell", "a cell is two hex digits, 00 to ff, in lower case")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            if value is not None:
                KeyRing.parse(value.get_secret_value())
        except ValueError as error:
            raise PydanticCustomError("keys", "{said}", {"said": str(error)}) from None
        return value

    @model_validator(mode="after")
    def _has_one_key_ring(self) -> Self:
        problem = None
        if self.encryption_keys is not None and self.encryption_keys_file is not None:
            problem = (
                "LONGRUN_ENCRYPTION_KEYS and LONGRUN_ENCRYPTION_KEYS_FILE cannot be used together"
            )
        else:
            try:
                _ = self.key_ring
            except ValueError as error:
                problem = (
                    f"LONGRUN_ENCRYPTION_KEYS_FILE={str(self.encryption_keys_file)!r}: {error}"
                )
        if problem:
            raise PydanticCustomError("keys", "{said}", {"said": problem})
        return self

    @property
    def key_ring(self) -> KeyRing:
        """What encrypts and decrypts what is stored; without keys where that is not set up.

        Raises:
            ValueError: the file cannot be read, or does not hold a key ring.
        """
        if self.encryption_keys is not None:
            return KeyRing.parse(self.encryption_keys.get_secret_value())
        if self.encryption_keys_file is None:
            return KeyRing()
        try:
            text = self.encryption_keys_file.read_text("utf-8")
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("it is not text") from None
        return KeyRing.parse(text)


_POSTGRES_URL: Final = re.compile(
    r"postgres(ql)?://([^/?#@]*@)?"  # user and password
    r"((\[[^]/?#@]*\]|[^][/?#@:,]*)(:\d*)?(,|(?=[/?]|$)))*"  # hosts and ports
    r"(/[^?#@]*)?(\?([^=&#]+=[^&#]*(&|$))*)?"  # database and options
)


def _is_postgres_url(text: str) -> bool:
    """Whether asyncpg can read it. Where it cannot, it says so with a part of the password."""
    return _POSTGRES_URL.fullmatch(text) is not None
