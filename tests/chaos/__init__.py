"""Faults on the whole platform, judged by a ledger from outside."""
