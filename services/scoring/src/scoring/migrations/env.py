"""Alembic's entry point."""

from revisit_chassis.migrate import run_env

run_env()
