"""Surveys behind public links: their definition, the page, the answers."""
