//! The sum of limits against the device's ceiling.

use serde_json::json;

use super::*;

const MIB: u64 = 1 << 20;

fn module(status: &str, memory: Option<&str>) -> Value {
    let mut module =
        json!({ "type": "wasm", "status": status, "settings": { "image": "registry.test/x:1", "sandbox": {} } });
    if let Some(memory) = memory {
        module["settings"]["sandbox"]["limits"] = json!({ "memory": memory });
    }
    module
}

/// 64 MiB by default, and 16 MiB and 1 MiB; another gigabyte is stopped.
fn text() -> String {
    with(&[(
        "agent/modules",
        json!({
            "small": module("running", Some("1MiB")), "plain": module("running", None),
            "off": module("stopped", Some("1GiB")), "some": module("running", Some("16MiB")), "b": module("running", Some("1MiB")),
        }),
    )])
}

fn read_within(max_memory: Option<u64>) -> Result<Reading, Faults> {
    read(&text(), &Context { max_memory, ..Context::new(&check_image) })
}

#[test]
fn a_sum_up_to_the_ceiling_is_accepted_and_one_above_it_is_a_fault_that_names_the_largest() {
    assert!(read_within(None).is_ok(), "without a ceiling any sum is");
    assert!(read_within(Some(82 * MIB)).is_ok());
    let faults = read_within(Some(82 * MIB - 1)).unwrap_err().0;
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault.at, path("agent/modules"));
    let expected = "the memory limits of the modules that are to run make 82MiB together, and this device allows 85983231 bytes; \
                    the largest: `plain` 64MiB, `some` 16MiB, `b` 1MiB";
    assert_eq!(fault.message, expected);
    assert!(fault.hint.as_ref().unwrap().contains("max-memory-bytes"), "{fault:?}");
}
