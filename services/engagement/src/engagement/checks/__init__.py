"""Checks: when each patient is to be looked at again for the 2Z rule."""
