"""Configuration of booking: the shared settings under the prefix `BOOKING_`."""

from revisit_chassis.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    """What booking is configured with."""

    model_config = settings_config("BOOKING")
