"""The client's side: connections, the requests that come on them, and the answers that leave."""
