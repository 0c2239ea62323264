"""Keys and routes, as deploy projects them."""
