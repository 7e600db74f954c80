#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (marram_fuzz::AGENT_CALL.attack)(data));
