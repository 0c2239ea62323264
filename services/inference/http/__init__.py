"""REST: the OpenAI API and the page."""
