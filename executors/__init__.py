"""Running one step: from a tree and a request to a tree and what was seen. Asynchronous; holds no session."""
