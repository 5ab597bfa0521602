//! End-to-end tests as one binary: the program, foreign devices, a real broker, faults and crashes.

mod layering;
