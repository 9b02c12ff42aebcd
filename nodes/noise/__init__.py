"""Start noise of clips."""
