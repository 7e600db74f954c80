//! What a rollback makes of the desired properties.

use super::*;

fn section(value: &str) -> Map<String, Value> {
    Map::from_iter([("is".to_owned(), value.into())])
}

fn apply(twin: &mut Twin, value: &str, version: u64, good: u64) {
    if twin.manifest_section() != Some(&section(value)) {
        twin.forget_replaced(good);
    }
    twin.apply_manifest_section(Some(&section(value)), version, UtcMillis(version));
}

fn set(twin: &mut Twin, value: &str) {
    twin.set_desired(&section(value), UtcMillis(1)).unwrap();
}

#[test]
fn a_rollback_gives_back_what_there_was_before_a_section_came() {
    let mut twin = Twin::new();
    apply(&mut twin, "bad", 2, 1);
    twin.restore_replaced(1, 3, UtcMillis(3));
    assert_eq!((twin.desired(), twin.desired_version(), twin.manifest_section()), (&Map::new(), 3, None));
    apply(&mut twin, "bad", 4, 3);
    assert_eq!(twin.desired(), &section("bad"), "the same section again is news");
}

#[test]
fn and_what_somebody_had_set_over_the_section_before_under_a_higher_version() {
    let mut twin = Twin::new();
    apply(&mut twin, "good", 1, 0);
    set(&mut twin, "mine");
    apply(&mut twin, "bad", 2, 1);
    set(&mut twin, "a cure that did not help");
    let before = twin.desired_version();
    let bytes = twin.to_bytes();
    let mut twin = Twin::from_bytes(&bytes).unwrap();
    twin.restore_replaced(1, 3, UtcMillis(3));
    assert_eq!((twin.desired(), twin.desired_version()), (&section("mine"), before + 1));
    assert_eq!((twin.manifest_section(), twin.desired_origin()), (Some(&section("good")), Origin::Local));
    apply(&mut twin, "good", 3, 1);
    assert_eq!(twin.desired(), &section("mine"), "the section is the one that was applied last");
}

#[test]
fn the_way_back_passes_over_all_that_were_not_good_and_ends_at_what_was() {
    let mut twin = Twin::new();
    apply(&mut twin, "1", 1, 0);
    apply(&mut twin, "2", 2, 1);
    apply(&mut twin, "3", 3, 1);
    let mut to_first = twin.clone();
    to_first.restore_replaced(1, 4, UtcMillis(4));
    assert_eq!(to_first.desired(), &section("1"), "2 was not good");
    assert_eq!(to_first.desired_origin(), Origin::Manifest { deployment_version: 4 });
    apply(&mut twin, "4", 4, 3);
    twin.restore_replaced(3, 5, UtcMillis(5));
    assert_eq!(twin.desired(), &section("3"), "3 was good");
}

#[test]
fn a_rollback_that_begins_anew_after_a_kill_gives_nothing_back_twice() {
    let mut twin = Twin::new();
    set(&mut twin, "mine");
    apply(&mut twin, "good", 3, 1); // by the rollback itself
    twin.restore_replaced(1, 3, UtcMillis(3));
    assert_eq!(twin.desired(), &section("good"));
}

#[test]
fn what_the_cloud_has_written_since_stays_also_where_the_deployment_before_had_a_section() {
    let mut twin = Twin::new();
    apply(&mut twin, "good", 1, 0);
    apply(&mut twin, "bad", 2, 1);
    let cloud = CloudTwin { desired: section("cloud"), desired_version: 7, faults: vec![], reported: Map::new() };
    assert_eq!(twin.take_cloud_twin(&cloud, UtcMillis(2)), Ok(true));
    let before = twin.desired_version();
    twin.restore_replaced(1, 3, UtcMillis(3));
    apply(&mut twin, "good", 3, 1);
    assert_eq!((twin.desired(), twin.desired_version()), (&section("cloud"), before));
    assert_eq!(twin.desired_origin(), Origin::Cloud { version: 7 });
    let next = CloudPatch { patch: section("next"), version: 8 };
    assert_eq!(twin.merge_cloud_patch(&next, UtcMillis(3)), Ok(Merged::InForce), "its versions go on");
    apply(&mut twin, "bad", 4, 3);
    assert_eq!(twin.desired(), &section("bad"), "another section than that of the deployment before is news");
}
