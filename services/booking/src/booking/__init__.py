"""Appointments, visits and no-shows of a clinic."""
