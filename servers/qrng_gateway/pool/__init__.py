"""Where bytes wait: lanes, the line of those who want them, and what happens on the way in."""
