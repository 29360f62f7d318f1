"""What `fmmloopy.diagnosis.doctor` looks at, one small function each."""
