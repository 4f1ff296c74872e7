"""Trees from and to other tools: tar, zip and folders of the host. What comes in is trusted with nothing."""
