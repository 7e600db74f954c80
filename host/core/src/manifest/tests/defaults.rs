//! What routes inherit from `$edgeHub`.

use proptest::prelude::*;

use super::*;
use crate::{deployment::RouteOptions, route::Sink};

/// The options of the route `r` under these defaults.
fn options(defaults: &Value, route: Value) -> RouteOptions {
    let text = with(&[("hub/marram", defaults.clone()), ("hub/routes", json!({ "r": route }))]);
    let reading = read_str(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    reading.deployment.routes[0].options.clone()
}

const INPUT: &str = r#"FROM /messages/* INTO BrokeredEndpoint("/modules/temp/inputs/in")"#;
const UPSTREAM: &str = "FROM /messages/* INTO $upstream";

#[test]
fn a_route_that_says_nothing_has_what_the_hub_says() {
    let defaults = json!({"sendTimeout": "250ms", "maxAttempts": 3, "durability": "power",
        "overflow": "drop-oldest", "ordering": "none", "drain": "oldest-first", "expiredToDeadLetter": true});
    let said = options(&json!({}), json!({"route": INPUT, "marram": defaults}));
    assert_ne!(said, RouteOptions::default());
    for silent in [json!(INPUT), json!({"route": INPUT}), json!({"route": INPUT, "marram": {}})] {
        assert_eq!(options(&defaults, silent), said);
    }
    // Also where routes may only be texts.
    let edits = [("hub/schemaVersion", json!("1.0")), ("hub/marram", defaults), ("hub/routes", json!({"r": INPUT}))];
    assert_eq!(read_str(&with(&edits)).unwrap().deployment.routes[0].options, said);
}

#[test]
fn attempts_upstream_have_no_limit_whatever_the_hub_says() {
    let text = with(&[("hub/marram", json!({"maxAttempts": 3}))]);
    let reading = read_str(&text).unwrap();
    let route = &reading.deployment.routes[0];
    assert_eq!((&route.route.sink, route.options.max_attempts), (&Sink::Upstream, None));
    assert_eq!(reading.warnings, [], "it is meant for the others");
}

#[test]
fn routes_into_one_input_disagree_only_after_they_have_inherited() {
    let faults = |defaults: Value, one: Value, other: Value| {
        let routes = json!({"one": {"route": INPUT, "marram": one}, "other": {"route": INPUT, "marram": other}});
        let text = with(&[("hub/marram", defaults), ("hub/routes", routes)]);
        read_str(&text).err().map(|faults| faults.to_string())
    };
    let oldest = || json!({"overflow": "drop-oldest"});
    assert_eq!(faults(oldest(), json!({}), oldest()), None, "one inherits what the other says");
    assert_eq!(faults(oldest(), oldest(), json!({})), None);
    let fault = faults(oldest(), json!({}), json!({"overflow": "reject-new"})).unwrap();
    assert!(
        fault.contains(&path("hub/routes/other")) && fault.contains("and route `one` into the same one"),
        "{fault}"
    );
    assert!(fault.contains("`marram` of $edgeHub"), "{fault}");
    assert!(faults(json!({}), oldest(), json!({})).is_some(), "nothing to inherit");
}

#[test]
fn defaults_that_are_bad_are_told_once_and_with_the_other_faults() {
    let edits = [
        ("hub/marram", json!({"durabilty": "crash", "overflow": "x"})),
        ("hub/routes", json!({"a": INPUT, "b": UPSTREAM, "c": {"route": "FROM", "marram": {"ordering": "x"}}})),
    ];
    let faults = read_str(&with(&edits)).unwrap_err();
    let mut at: Vec<String> = faults.0.iter().map(|fault| fault.at.to_string()).collect();
    at.sort();
    let places = ["hub/marram/durabilty", "hub/marram/overflow", "hub/routes/c/marram/ordering", "hub/routes/c/route"];
    assert_eq!(at, places.map(path));
    assert!(faults.to_string().contains("did you mean `durability`?"), "{faults}");
}

/// Each key of `marram` with two values, none of them the built-in one.
fn keys_and_values() -> Vec<(&'static str, [Value; 2])> {
    vec![
        ("sendTimeout", [json!("2s"), json!(0)]),
        ("maxAttempts", [json!(3), json!(7)]),
        ("durability", [json!("memory"), json!("power")]),
        ("overflow", [json!("drop-oldest"), json!("drop-lowest-priority")]),
        ("ordering", [json!("none"), json!("fifo")]),
        ("expiredToDeadLetter", [json!(true), json!(false)]),
        ("drain", [json!("live-first"), json!("oldest-first")]),
    ]
}

fn object(chosen: &[Option<bool>]) -> Value {
    let keys = keys_and_values();
    let picked = keys.into_iter().zip(chosen);
    picked
        .filter_map(|((key, values), which)| Some((key.to_owned(), values[usize::from((*which)?)].clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

proptest! {
    #[test]
    fn a_route_has_its_own_word_else_the_hubs_else_the_built_in_one(
        hub in prop::collection::vec(prop::option::of(any::<bool>()), 7),
        own in prop::collection::vec(prop::option::of(any::<bool>()), 7),
        upstream in any::<bool>(),
    ) {
        let route = |options: Value| json!({"route": if upstream { UPSTREAM } else { INPUT }, "marram": options});
        let merged: Vec<Option<bool>> = own.iter().zip(&hub).map(|(own, hub)| own.or(*hub)).collect();
        let inherited = options(&object(&hub), route(object(&own)));
        prop_assert_eq!(inherited, options(&json!({}), route(object(&merged))));
    }
}
