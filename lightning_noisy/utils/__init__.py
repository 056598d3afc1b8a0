"""What several rooms need: files that are whole or not there, lazy names, names that may be trusted."""

PROGRAM = "lightning-noisy"
"""What people type."""
