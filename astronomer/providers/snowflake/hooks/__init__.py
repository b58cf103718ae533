"""Sessions and clients."""
