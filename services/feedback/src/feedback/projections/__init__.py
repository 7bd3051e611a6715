"""What feedback knows of clinics, patients and visits, built from events."""
