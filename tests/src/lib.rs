//! End-to-end tests: foreign servers, real brokers, faults, crashes.
