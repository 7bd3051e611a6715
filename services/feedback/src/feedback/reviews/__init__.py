"""Reviews of public platforms, with their text."""
