"""Projects' own keys for providers, sealed in the ledger's file; the same four parts as `server.keys`."""
