"""The real gateway between the official SDKs and recorded provider traffic."""
