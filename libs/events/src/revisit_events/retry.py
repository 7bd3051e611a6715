"""Pauses between tries, as the chassis has them."""

from revisit_chassis.backoff import FIRST_SECONDS, LONGEST_SECONDS, pause, pause_seconds

__all__ = ["FIRST_SECONDS", "LONGEST_SECONDS", "pause", "pause_seconds"]
