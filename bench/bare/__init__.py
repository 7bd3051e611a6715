"""The bare limits: the shortest correct scripts that do the same work without a product around it."""
