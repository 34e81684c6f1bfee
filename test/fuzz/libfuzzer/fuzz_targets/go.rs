#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edgemesh_fuzz::go(bytes));
