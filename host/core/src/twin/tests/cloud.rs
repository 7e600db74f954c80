//! Facts about twins and the cloud.

use super::*;

fn cloud(desired: Value, version: u64) -> CloudTwin {
    CloudTwin { desired: map(desired), desired_version: version, faults: vec![], reported: Map::new() }
}

fn change(patch: Value, version: u64) -> CloudPatch {
    CloudPatch { patch: map(patch), version }
}

fn desired(twin: &Twin) -> Value {
    twin.desired().clone().into()
}

#[test]
fn what_the_cloud_says_is_read_without_what_begins_with_a_dollar() {
    let twin = CloudTwin::read(r#"{"desired":{"a":1,"$version":4,"$metadata":{}},"reported":{"b":2,"$version":9}}"#);
    let reported = map(json!({"b":2}));
    let expected = CloudTwin { desired: map(json!({"a":1})), desired_version: 4, faults: vec![], reported };
    assert_eq!(twin, Ok(expected));
    assert_eq!(CloudPatch::read(r#"{"a":null,"$version":5}"#), Ok(change(json!({"a":null}), 5)));
    for (bad, why) in
        [("[]", "not a JSON object"), ("{}", "`$version` is missing"), (r#"{"$version":-1}"#, "whole number")]
    {
        let told = CloudPatch::read(bad).unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
    assert!(CloudTwin::read(r#"{"reported":{}}"#).is_err());
}

#[test]
fn an_integer_that_64_bits_do_not_hold_is_a_fault_of_the_desired_properties_alone() {
    let read = |desired: &str, reported: &str| {
        let wide = "18446744073709551616";
        let json = format!(r#"{{"desired":{{{desired},"$version":4}},"reported":{{{reported}}}}}"#).replace('W', wide);
        CloudTwin::read(&json).unwrap()
    };
    let mut twin = Twin::new();
    let refused = twin.take_cloud_twin(&read(r#""a":{"b":W}"#, ""), NOW).unwrap_err();
    assert!(refused.to_string().starts_with("a.b: 18446744073709551616 is outside"), "{refused}");
    assert!(twin.desired().is_empty());
    assert_eq!(twin.take_cloud_twin(&read(r#""a":1,"$metadata":{"x":W}"#, r#""r":W"#), NOW), Ok(true));
    assert_eq!(desired(&twin), json!({"a":1}));
}

#[test]
fn a_patch_is_merged_if_it_follows_and_otherwise_the_whole_is_needed() {
    let mut twin = Twin::new();
    assert_eq!(twin.merge_cloud_patch(&change(json!({"a":1}), 2), NOW), Ok(Merged::Gap), "nothing is known yet");
    assert_eq!(twin.take_cloud_twin(&cloud(json!({"a":1}), 2), NOW), Ok(true));
    assert_eq!(twin.desired_origin(), Origin::Cloud { version: 2 });
    assert_eq!(twin.merge_cloud_patch(&change(json!({"b":2}), 3), NOW), Ok(Merged::InForce));
    assert_eq!(desired(&twin), json!({"a":1,"b":2}));
    assert_eq!(twin.merge_cloud_patch(&change(json!({"b":2}), 3), NOW), Ok(Merged::Known));
    for gap in [1, 2, 5] {
        assert_eq!(twin.merge_cloud_patch(&change(json!({"c":3}), gap), NOW), Ok(Merged::Gap), "{gap}");
    }
    assert_eq!((desired(&twin), twin.desired_version()), (json!({"a":1,"b":2}), 3), "none of these changed it");
    // An identity that was made anew counts from one again.
    assert_eq!(twin.take_cloud_twin(&cloud(json!({"z":1}), 1), NOW), Ok(true));
    assert_eq!(desired(&twin), json!({"z":1}));
}

#[test]
fn what_breaks_a_limit_changes_nothing_and_the_next_version_is_a_gap_then() {
    let mut twin = Twin::new();
    twin.take_cloud_twin(&cloud(json!({"a":1}), 2), NOW).unwrap();
    assert!(twin.merge_cloud_patch(&change(json!({"a.b":1}), 3), NOW).is_err());
    assert_eq!(twin.merge_cloud_patch(&change(json!({"b":1}), 4), NOW), Ok(Merged::Gap));
    assert!(twin.take_cloud_twin(&cloud(json!({"a.b":1}), 4), NOW).is_err());
    assert_eq!(desired(&twin), json!({"a":1}));
}

#[test]
fn local_changes_are_marked_and_stay_until_the_cloud_says_something_new() {
    let mut twin = Twin::new();
    twin.take_cloud_twin(&cloud(json!({"a":1,"in":{"x":1,"y":2}}), 7), NOW).unwrap();
    assert!(twin.local_changes().is_empty());
    twin.set_desired(&map(json!({"a":null,"in":{"y":3}})), NOW).unwrap();
    assert_eq!(Value::Object(twin.local_changes()), json!({"a":null,"in":{"y":3}}));
    assert_eq!(twin.desired_origin(), Origin::Local);
    let mut twin = Twin::from_bytes(&twin.to_bytes()).unwrap();

    assert_eq!(twin.take_cloud_twin(&cloud(json!({"a":1,"in":{"x":1,"y":2}}), 7), NOW), Ok(false), "nothing new");
    assert_eq!(desired(&twin), json!({"in":{"x":1,"y":3}}));

    let mut patched = twin.clone();
    assert_eq!(patched.merge_cloud_patch(&change(json!({"b":1}), 8), NOW), Ok(Merged::InForce));
    assert_eq!(desired(&patched), json!({"a":1,"in":{"x":1,"y":2},"b":1}), "the cloud's document, whole");
    assert_eq!(twin.take_cloud_twin(&cloud(json!({"a":2}), 8), NOW), Ok(true));
    assert_eq!((desired(&twin), twin.local_changes().len()), (json!({"a":2}), 0));
}

#[test]
fn a_local_change_that_is_taken_back_leaves_no_mark() {
    let mut twin = Twin::new();
    twin.apply_manifest_section(Some(&map(json!({"a":1}))), 1, NOW);
    twin.set_desired(&map(json!({"a":2})), NOW).unwrap();
    assert_eq!(Value::Object(twin.local_changes()), json!({"a":2}));
    twin.set_desired(&map(json!({"a":1})), NOW).unwrap();
    assert!(twin.local_changes().is_empty());
    twin.set_desired(&map(json!({"b":2})), NOW).unwrap();
    twin.apply_manifest_section(Some(&map(json!({"a":3}))), 2, NOW);
    assert!(twin.local_changes().is_empty(), "a new section replaces it");
}

#[test]
fn after_a_section_of_a_manifest_the_cloud_is_asked_for_the_whole() {
    let mut twin = Twin::new();
    twin.take_cloud_twin(&cloud(json!({"a":1}), 2), NOW).unwrap();
    twin.apply_manifest_section(Some(&map(json!({"m":1}))), 1, NOW);
    assert_eq!(twin.merge_cloud_patch(&change(json!({"a":2}), 3), NOW), Ok(Merged::Gap));
}

#[test]
fn what_upstream_lacks_is_one_patch_with_nulls_kept_over_a_restart() {
    let mut twin = Twin::new();
    let report = |twin: &mut Twin, patch: Value| twin.report(&map(patch), NOW).unwrap();
    assert_eq!(twin.unreported(), None);
    report(&mut twin, json!({"a":1,"in":{"x":1}}));
    twin.upstream_took(&twin.reported().clone());
    assert_eq!(twin.unreported(), None);
    report(&mut twin, json!({"a":null}));
    report(&mut twin, json!({"in":null}));
    report(&mut twin, json!({"in":{"y":2}}));
    let twin = Twin::from_bytes(&twin.to_bytes()).unwrap();
    // Merged patches would lose that `x` is gone: what upstream has is kept, not what was reported since.
    let expected = Unreported { patch: map(json!({"a":null,"in":{"x":null,"y":2}})), version: 5 };
    assert_eq!(twin.unreported(), Some(expected));
}

#[test]
fn what_is_reported_while_upstream_takes_a_patch_is_the_next_one() {
    let mut twin = Twin::new();
    twin.report(&map(json!({"a":1})), NOW).unwrap();
    let sent = twin.reported().clone();
    twin.report(&map(json!({"a":2})), NOW).unwrap();
    twin.upstream_took(&sent);
    assert_eq!(twin.unreported().unwrap().patch, map(json!({"a":2})));
    let has = CloudTwin { reported: map(json!({"a":2,"old":1})), ..cloud(json!({}), 1) };
    twin.take_cloud_twin(&has, NOW).unwrap();
    assert_eq!(twin.unreported().unwrap().patch, map(json!({"old":null})), "what only the cloud has goes");
}

/// A cloud whose changes get lost, and a device that is changed too.
#[derive(Debug, Clone)]
enum Event {
    Cloud { key: u8, value: Option<u8>, arrives: bool },
    Local { key: u8, value: Option<u8> },
    Report { key: u8, value: Option<u8> },
    Push,
    Connect,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let key = || 0_u8..4;
    let value = || prop::option::of(0_u8..3);
    prop_oneof![
        (key(), value(), any::<bool>()).prop_map(|(key, value, arrives)| Event::Cloud { key, value, arrives }),
        (key(), value()).prop_map(|(key, value)| Event::Local { key, value }),
        (key(), value()).prop_map(|(key, value)| Event::Report { key, value }),
        Just(Event::Push),
        Just(Event::Connect),
        Just(Event::Restart),
    ]
}

proptest! {
    #[test]
    fn after_a_connection_the_twin_is_the_clouds_with_local_changes_only_if_it_said_nothing_since(
        events in prop::collection::vec(event(), 1..60)
    ) {
        let patch_of = |key: u8, value: Option<u8>| map(json!({ format!("k{key}"): value }));
        let mut twin = Twin::new();
        let mut at_cloud = cloud(json!({}), 1);
        twin.take_cloud_twin(&at_cloud, NOW).unwrap();
        for event in events {
            match event {
                Event::Cloud { key, value, arrives } => {
                    merge_patch(&mut at_cloud.desired, &patch_of(key, value));
                    at_cloud.desired_version += 1;
                    let change = CloudPatch { patch: patch_of(key, value), version: at_cloud.desired_version };
                    if arrives && twin.merge_cloud_patch(&change, NOW).unwrap() == Merged::Gap {
                        twin.take_cloud_twin(&at_cloud, NOW).unwrap();
                    }
                    if arrives {
                        prop_assert_eq!(twin.desired(), &at_cloud.desired);
                        prop_assert!(twin.local_changes().is_empty());
                    }
                }
                Event::Local { key, value } => drop(twin.set_desired(&patch_of(key, value), NOW).unwrap()),
                Event::Report { key, value } => {
                    twin.report(&patch_of(key, value), NOW).unwrap();
                }
                Event::Push => if let Some(unreported) = twin.unreported() {
                    merge_patch(&mut at_cloud.reported, &unreported.patch);
                    let reported = twin.reported().clone();
                    twin.upstream_took(&reported);
                    prop_assert_eq!(&at_cloud.reported, twin.reported());
                } else {
                    prop_assert_eq!(&at_cloud.reported, twin.reported());
                },
                Event::Connect => {
                    let local = twin.local_changes();
                    let taken = twin.take_cloud_twin(&at_cloud, NOW).unwrap();
                    let mut expected = at_cloud.desired.clone();
                    if !taken {
                        merge_patch(&mut expected, &local);
                    }
                    prop_assert_eq!(twin.desired(), &expected);
                }
                Event::Restart => twin = Twin::from_bytes(&twin.to_bytes()).unwrap(),
            }
        }
    }
}
