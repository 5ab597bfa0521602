//! Benches and load generators.
