"""What engagement knows of clinics, patients, appointments and visits, built from events."""
