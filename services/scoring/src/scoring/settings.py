"""Configuration of scoring: the shared settings under the prefix `SCORING_`."""

from revisit_chassis.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    """What scoring is configured with."""

    model_config = settings_config("SCORING")
