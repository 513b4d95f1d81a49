"""The window and the flush: know neither Kafka nor Redis."""
