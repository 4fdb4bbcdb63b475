"""Who may have entropy, how much of it, and the record of who had it."""
