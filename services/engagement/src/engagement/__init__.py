"""Journeys, messages, consent, contact tasks and the 2Z rule."""
