"""What must look at Kafka and Redis both."""
