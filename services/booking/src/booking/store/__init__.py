"""Rows to values: locks and reads. What facts change is written by `booking.projection` alone."""
