"""Virtual keys in a running gateway: their table in the ledger's file, who follows it, and both ways to change it."""
