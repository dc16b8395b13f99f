"""How clients are connected: lines over TCP and unix sockets, messages over WebSockets."""
