"""Event contracts and their delivery: envelope, outbox, relay, inbox, consumer, dead letters."""
