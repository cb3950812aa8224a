"""Files that were damaged, or made to do harm: each is a good file with one thing changed.

`python -m tests.hostile` shows what is said of each of them.
"""
