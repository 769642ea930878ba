"""Files of public benchmarks, to and from our records."""
