"""The short way: an ordinary request whose kind was served before, from its head to its record."""
