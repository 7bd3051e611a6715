"""Booking over HTTP: one module a noun; each turns JSON into commands and values into JSON."""
