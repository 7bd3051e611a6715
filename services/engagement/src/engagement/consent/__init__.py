"""Consent: what a patient allowed or refused, as an append-only ledger and as what stands now."""
