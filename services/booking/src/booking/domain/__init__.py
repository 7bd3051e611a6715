"""Rules of appointments, visits and waiting: values in, values out, the standard library only."""
