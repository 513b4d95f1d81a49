"""The store: what is kept in Redis, and how (the contract, section 2)."""
