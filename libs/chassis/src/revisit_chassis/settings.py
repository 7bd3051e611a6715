"""Configuration from the environment, read once in `__main__` and passed down."""

import os
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def settings_config(prefix: str) -> SettingsConfigDict:
    """Gives the configuration of a service's settings class.

    Args:
        prefix: Of its variables, in capitals, without the underscore.
    """
    return SettingsConfigDict(
        env_prefix=f"{prefix}_", frozen=True, extra="forbid", populate_by_name=True
    )


def shared(name: str) -> AliasChoices:
    """Gives the name of a variable that several services read, without a prefix.

    Args:
        name: Of the variable.
    """
    return AliasChoices(name)


class ServiceSettings(BaseSettings):
    """What every service is configured with. Durations are in seconds."""

    database_url: SecretStr | None = None
    """Address of the service's database for its unprivileged user."""
    worker_database_url: SecretStr | None = None
    """The same for the relay's and scheduler's user."""
    owner_database_url: SecretStr | None = None
    """The same for the owner; `migrate` only."""
    public_url: str = ""
    """Address under which the service's pages are reached from outside."""
    host: str = "127.0.0.1"
    port: int = 0
    worker_port: int = 0
    """Port of the worker's health page; none when 0."""
    kafka_bootstrap_servers: str = Field("", validation_alias=shared("KAFKA_BOOTSTRAP_SERVERS"))
    kafka_enable_idempotence: bool = Field(
        default=True,
        validation_alias=shared("KAFKA_ENABLE_IDEMPOTENCE"),
    )
    kafka_topic_partitions: int = Field(12, validation_alias=shared("KAFKA_TOPIC_PARTITIONS"))
    kafka_topic_replication: int = Field(-1, validation_alias=shared("KAFKA_TOPIC_REPLICATION"))
    """Copies of each topic; -1 is the broker's own default."""
    kafka_fetch_max_wait_ms: int = Field(500, validation_alias=shared("KAFKA_FETCH_MAX_WAIT_MS"))
    jwks: str = Field("", validation_alias=shared("REVISIT_JWKS"))
    signing_key: str = Field("", validation_alias=shared("REVISIT_SIGNING_KEY"))
    keyring: str = Field("", validation_alias=shared("REVISIT_KEYRING"))
    clock_url: str = Field("", validation_alias=shared("REVISIT_CLOCK_URL"))
    outbox_retention_days: int = Field(14, validation_alias=shared("OUTBOX_RETENTION_DAYS"))
    event_log_retention_days: int = Field(0, validation_alias=shared("EVENT_LOG_RETENTION_DAYS"))
    outbox_lanes: int = Field(1, validation_alias=shared("OUTBOX_LANES"))
    consumer_trip_at: int = Field(100, validation_alias=shared("CONSUMER_TRIP_AT"))
    """New dead letters among the last 200 messages at which the consumer stops; 0 never does."""
    log_format: Literal["json", "console"] = Field(
        "json", validation_alias=shared("REVISIT_LOG_FORMAT")
    )

    @model_validator(mode="after")
    def _refuse_unknown_variables(self) -> Self:
        prefix = str(self.model_config.get("env_prefix", ""))
        known = {f"{prefix}{name}".upper() for name in type(self).model_fields}
        known |= {
            str(choice)
            for field in type(self).model_fields.values()
            if isinstance(field.validation_alias, AliasChoices)
            for choice in field.validation_alias.choices
        }
        unknown = sorted(
            name for name in os.environ if prefix and name.startswith(prefix) and name not in known
        )
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        return self

    @property
    def service(self) -> str:
        """Name of the service."""
        return str(self.model_config.get("env_prefix", "")).rstrip("_").lower()

    def address(self, user: Literal["app", "worker", "owner"]) -> str:
        """Gives the database's address for one of its users.

        Args:
            user: Which.

        Raises:
            ValueError: It is not configured; the text names the variable.
        """
        name = {
            "app": "database_url",
            "worker": "worker_database_url",
            "owner": "owner_database_url",
        }
        value: SecretStr | None = getattr(self, name[user])
        if value is None:
            prefix = str(self.model_config.get("env_prefix", ""))
            raise ValueError(f"{prefix}{name[user].upper()} is not set")
        return value.get_secret_value()
