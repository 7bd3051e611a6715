"""Pauses: the emergency stop for a clinic's, a journey's or a channel's messages."""
