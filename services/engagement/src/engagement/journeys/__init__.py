"""Journeys: which message a visit or an appointment deserves, and when."""
