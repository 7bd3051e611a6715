"""Rows to values: locks and reads. `booking.projection` alone writes what facts change, by `reported`."""
