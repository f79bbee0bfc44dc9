"""The embedded database: a PostgreSQL that the server sets up and runs itself."""
