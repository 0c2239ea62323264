"""What files say of themselves, read from their bytes alone and believed only as far as it fits the file."""
