"""What a data lake needs of the database: whole days as columns, which of them changed, which were pushed, and back."""
