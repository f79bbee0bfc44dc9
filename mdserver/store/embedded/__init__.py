"""The PostgreSQL that the server brings and runs by itself."""
