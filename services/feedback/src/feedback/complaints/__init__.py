"""Complaints: cases from low scores, from reviews and from staff, with causes and resolutions."""
