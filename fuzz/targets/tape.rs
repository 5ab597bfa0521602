//! See `millrace_fuzz::tape`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millrace_fuzz::tape(data));
