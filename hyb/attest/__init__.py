"""From an artifact back to where all of it came from, told by its receipts and checked link by link."""
