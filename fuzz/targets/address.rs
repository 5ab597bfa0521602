//! See `millrace_fuzz::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millrace_fuzz::address(data));
