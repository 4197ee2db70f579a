"""Configuration: auditd's `key = value` grammar once, and a frozen, validated value per file."""
