"""The embedded default: PostgreSQL, a broker and the four services by one command."""
