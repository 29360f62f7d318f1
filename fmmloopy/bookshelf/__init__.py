"""What is known of recipe books: which there are, what has been certified, and which parameters were tuned."""
