"""The 2Z rule: after every completed visit a next appointment, an open contact task, or a release."""
