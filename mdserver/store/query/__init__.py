"""What the HTTP interface reads."""
