"""scenelift."""
