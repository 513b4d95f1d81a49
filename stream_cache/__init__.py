"""The latest metadata of every IoT device: from Kafka to Redis, and out over HTTP."""
