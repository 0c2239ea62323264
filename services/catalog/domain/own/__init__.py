"""What a project registers: told from its files, served or refused with the reason."""
