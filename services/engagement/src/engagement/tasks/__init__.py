"""Contact tasks: pieces of call-centre work with a reason, a due time, a script and an outcome."""
