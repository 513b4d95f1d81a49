"""Kafka, by Faust and aiokafka: the only room that reaches into the two."""
