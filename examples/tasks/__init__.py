"""Tasks that any optimizer can train."""
