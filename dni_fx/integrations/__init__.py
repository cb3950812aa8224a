"""Callbacks for the trainers of other packages: one file a package, which is imported by no other module."""
