"""HTTP: what people and monitoring see of a server, on its WebSocket addresses and on one of its own."""
