"""Forms of an operation that are faster on one platform; dispatch.py alone chooses."""
