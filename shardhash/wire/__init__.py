"""The wire: hashes, framing, messages and the state machine of one connection. Pure: no sockets, no clock."""
