"""Links that engagement serves itself: preferences and unsubscribe."""
