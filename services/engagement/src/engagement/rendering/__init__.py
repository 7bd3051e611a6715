"""Texts of the messages and how they become what a person reads."""
