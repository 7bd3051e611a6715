"""Defaults that every service would otherwise copy: settings, sessions, tenancy, tokens, problems, logs."""
