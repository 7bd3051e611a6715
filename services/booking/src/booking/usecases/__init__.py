"""One function a command: load, decide, save, publish. None commits: the request or batch does."""
