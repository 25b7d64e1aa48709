"""Forms of an operation for one platform; dispatch.py alone chooses."""
