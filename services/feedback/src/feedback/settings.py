"""Configuration of feedback."""

from revisit_chassis.settings import ServiceSettings, settings_config


class Settings(ServiceSettings):
    """Variables begin with `FEEDBACK_`; the shared ones are named in the chassis."""

    model_config = settings_config("FEEDBACK")
