"""What a file is, told from its bytes and never from its name; what could harm whoever loads it is refused."""
