"""What the platform reaches, measured against the shortest correct scripts in the same run."""
