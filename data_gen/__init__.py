"""Text in, rows out: the story world and everything that turns text into training rows."""
