"""The ways out: SMTP and the generic SMS gateway."""
