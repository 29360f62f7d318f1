"""What `fmmloopy.doctor` looks at, one small function each."""
