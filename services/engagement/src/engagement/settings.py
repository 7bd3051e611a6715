"""Configuration of engagement: the shared settings under the prefix `ENGAGEMENT_`, and its providers."""

from pydantic import Field, SecretStr

from revisit_chassis.settings import ServiceSettings, settings_config, shared


class Settings(ServiceSettings):
    """What engagement is configured with."""

    model_config = settings_config("ENGAGEMENT")

    smtp_url: SecretStr | None = None
    """`smtp://[user:password@]host:port`; without it no e-mail leaves."""
    sms_url: SecretStr | None = None
    """Where text messages are posted; without it none leaves."""
    mail_sender: str = "noreply@revisit.example"
    """Address in `From`."""
    sms_sender: str = "Revisit"
    """Name shown to the patient; registered with the gateway."""
    callback_secret: SecretStr | None = None
    """Shared with the gateway: signs its delivery receipts. Without it none is taken."""
    booking_public_url: str = Field("", validation_alias=shared("BOOKING_PUBLIC_URL"))
    feedback_public_url: str = Field("", validation_alias=shared("FEEDBACK_PUBLIC_URL"))
