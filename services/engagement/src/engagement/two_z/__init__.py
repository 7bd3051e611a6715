"""The 2Z rule: after every visit a next appointment, an open contact task, or a release."""
