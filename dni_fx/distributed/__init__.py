"""Processes that train one model together: who they are, and what passes between them."""
