"""Runs the migrations of engagement."""

from revisit_chassis.migrate import run_env

run_env()
