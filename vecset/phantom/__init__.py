"""Synthetic hearts: anatomy, fields, populations. Nothing that a real heart needs."""
