"""Runs the migrations of feedback."""

from revisit_chassis.migrate import run_env

run_env()
