"""Skupper v2: the documents of both sides, what is wrong with documents given, and the guide. Pure."""
