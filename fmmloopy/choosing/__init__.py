"""Choose the fastest ncrit and form of M2L for an evaluation, from counted work and measured rates."""
