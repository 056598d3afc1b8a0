"""What a Lightning training does beside its steps."""
