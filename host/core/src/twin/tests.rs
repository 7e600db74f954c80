//! Facts about twins.

use proptest::prelude::*;
use serde_json::json;

use super::*;

mod cloud;
mod lost;
mod model;
mod replaced;

const NOW: UtcMillis = UtcMillis(1_769_860_800_000);

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn check_merge(target: Value, patch: Value, expected: Value) {
    let mut document = map(target);
    merge_patch(&mut document, &map(patch));
    assert_eq!(Value::Object(document), expected);
}

#[test]
fn a_patch_merges_objects_deletes_by_null_and_replaces_the_rest() {
    check_merge(json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2}));
    check_merge(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 9}}), json!({"a": {"b": 9, "c": 2}}));
    check_merge(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
    check_merge(json!({"a": 1}), json!({"a": {"b": 2}}), json!({"a": {"b": 2}}));
    check_merge(json!({"a": {"b": 2}}), json!({"a": 1}), json!({"a": 1}));
    check_merge(json!({}), json!({"missing": null}), json!({}));
    check_merge(json!({"a": {"b": 1}}), json!({"a": {}}), json!({"a": {"b": 1}}));
}

#[test]
fn nulls_nested_under_a_new_key_are_dropped_as_the_rfc_says() {
    check_merge(json!({}), json!({"a": {"b": null, "c": {"d": null}}}), json!({"a": {"c": {}}}));
    check_merge(json!({"a": 1}), json!({"a": {"b": null}}), json!({"a": {}}));
}

#[test]
fn a_difference_names_only_what_changed() {
    let from = map(json!({"same": 1, "gone": 2, "in": {"same": 1, "gone": 2, "new": 3}, "list": [1]}));
    let to = map(json!({"same": 1, "in": {"same": 1, "new": 4}, "list": [1, 2], "added": {}}));
    let patch = json!({"gone": null, "in": {"gone": null, "new": 4}, "list": [1, 2], "added": {}});
    assert_eq!(Value::Object(diff(&from, &to)), patch);
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "k": inner }))
}

#[test]
fn every_limit_names_its_place() {
    let long = "x".repeat(MAX_STRING_BYTES + 1);
    let cases = [
        (json!({"a": {"b": long}}), "a.b: a string of 4097 bytes, at most 4096 are allowed"),
        (json!({"a": [1, {"b.c": 2}]}), "a[1].b.c: a key may not contain '.'"),
        (json!({"$version": 1}), "$version: a key may not contain '$'"),
        (json!({"a#": 1}), "a#: a key may not contain '#'"),
        (json!({"a b": 1}), "a b: a key may not contain ' '"),
        (json!({"a\u{1}": 1}), "a\\u{1}: a key may not contain '\\u{1}'"),
        (json!({"a": MAX_INTEGER + 1}), "a: 4503599627370496 is outside of the range of integers"),
        (json!({"a": MIN_INTEGER - 1}), "a: -4503599627370497 is outside of the range of integers"),
        (json!({"a": u64::MAX}), "a: 18446744073709551615 is outside of the range of integers"),
        (json!({"a": [[null]]}), "a[0][0]: null may not stand inside an array"),
        (json!({"a": [{"b": null}]}), "a[0].b: null may not stand inside an array"),
        (nested(12), "k.k.k.k.k.k.k.k.k.k.k: nested deeper than 10 levels"),
    ];
    for (document, expected) in cases {
        let fault = validate_patch(&map(document)).unwrap_err().to_string();
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn an_integer_that_64_bits_do_not_hold_is_out_of_range_and_no_float() {
    for integer in ["18446744073709551616", "-9223372036854775809", "1234567890123456789012345678901234567890"] {
        let text = format!(r#"{{"a": 1e300, "in": [{{"b": {integer}}}], "z": 2.5e20}}"#);
        let told = read_patch(&text).unwrap_err().to_string();
        assert!(told.starts_with(&format!("in[0].b: {integer} is outside of the range of integers")), "{told}");
        assert!(CloudPatch::read(&format!(r#"{{"a":{integer},"$version":2}}"#)).is_err());
    }
    let floats = read_patch(r#"{"a": 1e300, "b": 18446744073709551616.0, "c": -2.5E20, "d": "18446744073709551616"}"#);
    assert_eq!(validate_patch(&floats.unwrap()), Ok(()));
}

#[test]
fn an_integer_whose_key_comes_again_is_not_there() {
    let again = read_patch(r#"{"a":18446744073709551616,"a":1}"#);
    assert_eq!(again, Ok(map(json!({"a":1}))));
    let last = read_patch(r#"{"a":1,"a":18446744073709551616}"#).unwrap_err().to_string();
    assert!(last.starts_with("a: 18446744073709551616 is outside"), "{last}");
}

#[test]
fn the_eleventh_level_is_one_too_many_for_objects_and_for_arrays() {
    assert_eq!(validate_patch(&map(nested(11))), Ok(()), "the document itself is level 0");
    let list = (0..10).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(validate_patch(&map(json!({ "k": list }))), Ok(()));
    let fault = validate_patch(&map(json!({ "k": [list] }))).unwrap_err();
    assert_eq!(fault.to_string(), format!("k{}: nested deeper than 10 levels", "[0]".repeat(10)));
}

#[test]
fn a_long_key_is_a_fault_and_is_shown_cut() {
    let fault = validate_patch(&map(json!({ "k".repeat(MAX_KEY_BYTES + 1): 1 }))).unwrap_err();
    assert_eq!(fault.to_string(), format!("{}: a key of 1025 bytes, at most 1024 are allowed", "k".repeat(64)));
}

#[test]
fn what_is_just_within_the_limits_passes() {
    let document = json!({
        "k".repeat(MAX_KEY_BYTES): "x".repeat(MAX_STRING_BYTES),
        "int": [MAX_INTEGER, MIN_INTEGER],
        "float": 1e300,
        "gone": null,
        "deep": nested(10),
    });
    assert_eq!(validate_patch(&map(document)), Ok(()));
}

#[test]
fn the_size_of_the_whole_is_that_of_its_json_text() {
    let filled = |bytes: usize| {
        let keys = (0..8).map(|i| (format!("k{i}"), json!("x".repeat(4000))));
        let mut document: Map<String, Value> = keys.collect();
        let rest = bytes - serde_json::to_vec(&document).unwrap().len() - r#","z":"""#.len();
        document.insert("z".into(), json!("x".repeat(rest)));
        document
    };
    assert_eq!(validate_desired(&filled(MAX_SECTION_BYTES)), Ok(()));
    let fault = validate_desired(&filled(MAX_SECTION_BYTES + 1)).unwrap_err();
    assert_eq!(fault.to_string(), "32769 bytes of JSON, at most 32768 are allowed");
}

#[test]
fn all_faults_of_a_document_are_found() {
    let document = map(json!({"a.b": {"c d": null}, "list": [null], "n": i64::MAX}));
    let places: Vec<String> = twin_faults(&document).into_iter().map(|fault| fault.path).collect();
    assert_eq!(places, ["a.b", "a.b.c d", "list[0]", "n"]);
    let told = Twin::new().report(&document, NOW).unwrap_err().to_string();
    assert!(told.starts_with("a.b: a key may not contain '.'") && told.ends_with(" (and 3 more)"), "{told}");
}

#[test]
fn a_manifest_section_replaces_the_desired_properties_once() {
    let mut twin = Twin::new();
    let section = map(json!({"limit": 30, "unit": "C"}));
    assert_eq!(twin.apply_manifest_section(Some(&section), 4, NOW), Some(section.clone()));
    assert_eq!((twin.desired(), twin.desired_version()), (&section, 2));
    assert_eq!(twin.desired_origin(), Origin::Manifest { deployment_version: 4 });

    twin.set_desired(&map(json!({"limit": 35})), NOW).unwrap();
    assert_eq!(twin.apply_manifest_section(Some(&section), 5, NOW), None, "`twin set` survives a re-apply");
    assert_eq!(twin.apply_manifest_section(None, 6, NOW), None, "a manifest without a section leaves the twin alone");
    assert_eq!((&twin.desired()["limit"], twin.desired_origin()), (&json!(35), Origin::Local));

    let changed = map(json!({"limit": 40}));
    let patch = twin.apply_manifest_section(Some(&changed), 7, NOW);
    assert_eq!(patch, Some(map(json!({"limit": 40, "unit": null}))));
    assert_eq!((twin.desired(), twin.desired_version()), (&changed, 4));
}

#[test]
fn a_new_section_that_says_what_is_already_so_makes_no_new_version() {
    let mut twin = Twin::new();
    twin.set_desired(&map(json!({"limit": 35})), NOW).unwrap();
    let section = map(json!({"limit": 35, "gone": null}));
    assert_eq!(twin.apply_manifest_section(Some(&section), 1, NOW), None);
    assert_eq!((twin.desired_version(), twin.desired_origin()), (2, Origin::Local));
    assert_eq!(twin.manifest_section(), Some(&section));
}

#[test]
fn setting_returns_what_really_changed() {
    let mut twin = Twin::new();
    twin.set_desired(&map(json!({"a": 1, "b": {"c": 2}})), NOW).unwrap();
    let patch = twin.set_desired(&map(json!({"a": 1, "b": {"c": 3}, "missing": null})), NOW).unwrap();
    assert_eq!((patch, twin.desired_version()), (map(json!({"b": {"c": 3}})), 3));
    let patch = twin.set_desired(&map(json!({"a": 1})), NOW).unwrap();
    assert_eq!((patch, twin.desired_version()), (Map::new(), 3));
}

#[test]
fn a_refused_patch_changes_nothing() {
    let mut twin = Twin::new();
    twin.report(&map(json!({"a": 1})), NOW).unwrap();
    twin.set_desired(&map(json!({"a": 1})), NOW).unwrap();
    let before = twin.clone();
    assert!(twin.report(&map(json!({"b": 1, "c d": 2})), NOW).is_err());
    assert!(twin.set_desired(&map(json!({"b": [null]})), NOW).is_err());
    assert_eq!(twin, before);
}

#[test]
fn patches_that_are_small_each_cannot_grow_a_section_beyond_its_limit() {
    let mut twin = Twin::new();
    let mut patch_of = |key: usize| twin.report(&map(json!({ format!("k{key}"): "x".repeat(4096) })), NOW);
    let refused = (0..20).map(&mut patch_of).find_map(Result::err).unwrap();
    assert!(matches!(refused.0[0].rule, TwinRule::Size(_)));
    assert!(serde_json::to_vec(twin.reported()).unwrap().len() <= MAX_SECTION_BYTES);
}

#[test]
fn reported_versions_rise_by_one_with_each_change() {
    let mut twin = Twin::new();
    assert_eq!(twin.reported_version(), 1);
    assert_eq!(twin.report(&map(json!({"a": 1})), NOW), Ok(2));
    assert_eq!(twin.report(&map(json!({"a": 1})), NOW), Ok(2));
    assert_eq!(twin.report(&map(json!({"a": null})), NOW), Ok(3));
}

#[test]
fn an_answer_to_desired_properties_always_fits_into_a_report() {
    let ack = TwinAck { code: 200, description: format!("{}é", "x".repeat(4095)) };
    let mut twin = Twin::new();
    let patch = twin.answer(&ack, 7, NOW).unwrap();
    assert_eq!(twin.reported(), &patch);
    assert_eq!(patch["desiredAck"]["version"], json!(7));
    assert_eq!(patch["desiredAck"]["code"], json!(200));
    assert_eq!(patch["desiredAck"]["description"].as_str().unwrap().len(), 4095);
}

#[test]
fn there_is_room_for_an_answer_however_much_is_reported() {
    let longest = TwinAck { code: u16::MAX, description: "é\u{1}".repeat(700) };
    let mut full = Twin::new();
    for key in 0..7 {
        full.report(&map(json!({ key.to_string(): "x".repeat(MAX_STRING_BYTES) })), NOW).unwrap();
    }
    let most = (0..MAX_STRING_BYTES)
        .rev()
        .find(|most| full.clone().report(&map(json!({"8": "x".repeat(*most)})), NOW).is_ok());
    let most = most.unwrap();
    let rule =
        |twin: &mut Twin| twin.report(&map(json!({"8": "x".repeat(most + 1)})), NOW).unwrap_err().0.remove(0).rule;
    assert_eq!(rule(&mut full), TwinRule::NoRoomForAck(MAX_SECTION_BYTES - ACK_BYTES + 1));
    full.report(&map(json!({"8": "x".repeat(most)})), NOW).unwrap();
    let patch = full.answer(&longest, MAX_INTEGER as u64, NOW).unwrap();
    assert_eq!(patch["desiredAck"], json!({"version": MAX_INTEGER, "code": u16::MAX, "description": ""}));
    assert!(serde_json::to_vec(full.reported()).unwrap().len() <= MAX_SECTION_BYTES);
    assert_eq!(rule(&mut full), TwinRule::Size(MAX_SECTION_BYTES + 1), "also once it is there");

    full.report(&map(json!({"8": "x".repeat(most - 1000)})), NOW).unwrap();
    let patch = full.answer(&longest, 3, NOW).unwrap();
    let description = patch["desiredAck"]["description"].as_str().unwrap();
    assert!(!description.is_empty() && longest.description.starts_with(description), "as much as there is room for");
}

#[test]
fn what_was_reported_before_room_was_kept_may_only_get_smaller() {
    let mut twin = Twin::new();
    let reported: Vec<Value> = (0..8).map(|_| "x".repeat(MAX_STRING_BYTES - 5).into()).collect();
    twin.reported = map(json!({ "all": reported.clone() }));
    assert!(bytes_without_ack(&twin.reported) > MAX_SECTION_BYTES - ACK_BYTES);
    assert!(validate_desired(&twin.reported).is_ok());
    assert!(twin.report(&map(json!({"n": 1})), NOW).is_err());
    let mut shorter = reported;
    shorter[0] = "x".repeat(MAX_STRING_BYTES - 16).into();
    twin.report(&map(json!({ "all": shorter })), NOW).unwrap();
    assert!(bytes_without_ack(&twin.reported) > MAX_SECTION_BYTES - ACK_BYTES, "smaller, and still too large");
    twin.report(&map(json!({"all": ["x"]})), NOW).unwrap();
    twin.report(&map(json!({"n": 1})), NOW).unwrap();
}

#[test]
fn a_stored_twin_comes_back_as_it_was_and_says_its_format() {
    let mut twin = Twin::new();
    twin.apply_manifest_section(Some(&map(json!({"limit": 30}))), 3, NOW);
    twin.report(&map(json!({"ok": true})), NOW).unwrap();
    let bytes = twin.to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["format"], json!(1));
    assert_eq!(Twin::from_bytes(&bytes).unwrap(), twin);
}

#[test]
fn a_newer_format_is_refused_before_anything_else_is_read() {
    let fault = Twin::from_bytes(br#"{"format":2,"desired":"of another kind"}"#).unwrap_err();
    assert!(fault.to_string().contains("format 2"), "{fault}");
    assert!(Twin::from_bytes(br#"{"desired":{}}"#).is_err());
    assert!(Twin::from_bytes(b"").is_err());
}

/// Documents without null, with few keys so that they meet.
fn any_document() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-5i64..5).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    });
    prop::collection::btree_map("[a-d]", tree, 0..4).prop_map(|map| map.into_iter().collect())
}

/// Patches: documents with nulls put in for some of the values.
fn any_patch() -> impl Strategy<Value = Map<String, Value>> {
    (any_document(), any_document()).prop_map(|(from, to)| diff(&from, &to))
}

fn merged(target: &Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    let mut result = target.clone();
    merge_patch(&mut result, patch);
    result
}

proptest! {
    #[test]
    fn a_difference_turns_one_document_into_the_other(from in any_document(), to in any_document()) {
        prop_assert_eq!(merged(&from, &diff(&from, &to)), to);
    }

    #[test]
    fn equal_documents_differ_by_nothing_and_nothing_changes_nothing(document in any_document()) {
        prop_assert!(diff(&document, &document).is_empty());
        prop_assert_eq!(merged(&document, &Map::new()), document);
    }

    #[test]
    fn a_patch_applied_twice_is_a_patch_applied_once(document in any_document(), patch in any_patch()) {
        let once = merged(&document, &patch);
        prop_assert_eq!(merged(&once, &patch), once);
    }

    #[test]
    fn no_null_survives_a_merge(document in any_document(), patch in any_patch()) {
        let text = serde_json::to_string(&merged(&document, &patch)).unwrap();
        prop_assert!(!text.contains("null"), "{}", text);
    }

    #[test]
    fn a_module_that_merges_the_patches_it_is_sent_holds_the_desired_properties(
        writes in prop::collection::vec((any::<bool>(), any_patch()), 0..8),
    ) {
        let (mut twin, mut module, mut version) = (Twin::new(), Map::new(), 1);
        for (number, (from_manifest, patch)) in (0u64..).zip(writes) {
            let sent = match from_manifest {
                true => twin.apply_manifest_section(Some(&patch), number, NOW).unwrap_or_default(),
                false => twin.set_desired(&patch, NOW).unwrap(),
            };
            version += u64::from(!sent.is_empty());
            merge_patch(&mut module, &sent);
            prop_assert_eq!(&module, twin.desired());
            prop_assert_eq!(version, twin.desired_version());
        }
    }
}
