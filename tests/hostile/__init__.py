"""What hostile clients and providers send, against the real process."""
