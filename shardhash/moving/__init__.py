"""Moving in from the stock server's database, and back."""
