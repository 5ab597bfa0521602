//! See `millrace_fuzz::rtu`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millrace_fuzz::rtu(data));
