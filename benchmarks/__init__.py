"""Questions that are answered by measuring. Each runs its arms in turn on the same machine, and its ratios are what counts."""
