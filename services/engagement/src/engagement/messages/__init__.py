"""Messages: planned, judged by one gate, sent once, and what the provider made of them."""
