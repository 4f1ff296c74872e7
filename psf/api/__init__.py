"""HTTP: three families of routes over one service. The only place that knows aiohttp."""
