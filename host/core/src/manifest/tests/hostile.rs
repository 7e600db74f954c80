//! What a hostile manifest may cost. Counts work and kept bytes, not time.

use std::fmt::Write as _;

use super::*;
use crate::manifest::suggest::tests::COMPARED;

/// Modules of nothing, and routes to none of them.
fn names_to_compare(modules: usize, routes: usize) -> String {
    let mut text = String::from(
        r#"{"modulesContent":{"$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","modules":{"z":0"#,
    );
    (0..modules).for_each(|n| write!(text, r#","mmmmm{n:05}":0"#).unwrap());
    text += r#"}}},"$edgeHub":{"properties.desired":{"schemaVersion":"1.1","routes":{"z":"""#;
    for n in 0..routes {
        write!(text, r#","{n}":"FROM /* INTO BrokeredEndpoint('/modules/mmmmn{n:05}/inputs/i')""#).unwrap();
    }
    text + r#"},"storeAndForwardConfiguration":{"timeToLiveSecs":1}}}}}"#
}

#[test]
fn names_are_compared_only_for_as_long_as_it_costs_little() {
    let text = names_to_compare(20_000, 8_000);
    assert!(text.len() < MAX_MANIFEST_BYTES);
    let before = COMPARED.get();
    read_str(&text).unwrap_err();
    assert!(COMPARED.get() - before <= 10_000, "{} comparisons", COMPARED.get() - before);
}

#[test]
fn a_manifest_of_usual_size_gets_its_hints_to_the_last() {
    let route = "FROM /* INTO BrokeredEndpoint('/modules/tmp/inputs/i')";
    let routes: serde_json::Map<_, _> = (0..99).map(|n| (n.to_string(), route.into())).collect();
    let reading = reading("hub/routes", routes.into());
    assert_eq!(reading.warnings.len(), 99);
    assert!(reading.warnings.iter().all(|warning| warning.hint.as_deref() == Some("did you mean `temp`?")));
}

#[test]
fn of_a_hundred_thousand_faults_at_a_long_path_the_first_hundred_are_kept() {
    let depth = 100;
    let key = "k".repeat(64);
    let mut text = format!(r#"{{"{key}":"#).repeat(depth) + r#"{"a":0"#;
    text += &r#","a":0"#.repeat(100_000);
    text += &"}".repeat(depth + 1);
    let document = json::parse(&text).ok().unwrap();
    let mut found = Findings::default();
    json::report_duplicates(&document, &At::root(), &mut found);
    assert_eq!(found.faults.kept(), 100);
    let told = found.faults.told();
    assert_eq!(told.last().unwrap().message, "and 99900 more");
    assert!(told[0].at.ends_with(".a") && told[0].at.len() == 65 * depth + 1, "{}", told[0].at);
}

#[test]
fn a_hundred_thousand_bad_keys_of_a_twin_are_not_kept_either() {
    let section: serde_json::Map<String, Value> = (0..100_000).map(|n| (format!("a.{n}"), json!(0))).collect();
    let faults = crate::twin::twin_faults(&section);
    assert_eq!(faults.len(), 101, "the last one is its size");
}

#[test]
fn comments_that_never_close_are_looked_for_once() {
    // 300,000 looks at the rest of a text of 1 MB would take minutes.
    let route = format!("FROM /a{} INTO $upstream", " /*".repeat(300_000));
    let reading = reading("hub/routes", json!({ "a": route }));
    assert_eq!(reading.deployment.routes.len(), 1);
}

#[test]
fn routes_find_their_module_in_any_case() {
    let routes = json!({ "a": "FROM /* INTO BrokeredEndpoint('/modules/TEMP/inputs/i')" });
    let route = reading("hub/routes", routes).deployment.routes.remove(0).route;
    assert_eq!(route.sink, crate::route::Sink::Input { module: "temp".into(), input: "i".into() });
}
