"""The fast multipole method on several devices, and in several processes."""
