"""What is chosen for an evaluation: counted work, measured rates, and the fastest ncrit and form of M2L by them."""
