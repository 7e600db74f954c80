//! Twins of real modules: who hears of their changes, and when.

use marram_tests::{
    device::Device,
    journal::text,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

#[test]
fn what_a_module_reports_goes_upstream_by_a_route_that_takes_changes_of_twins() {
    let (layout, device) = (Layout::with(&["threshold_filter"]), Device::new());
    let route = |code| format!("FROM /twinChangeNotifications WHERE $body.desiredAck.code {code} INTO $upstream");
    let manifest = Manifest::new()
        .module("filter", Module::new(&layout.image("threshold_filter")))
        .twin("filter", json!({ "field": "t", "threshold": 1 }))
        .route("refused", &route(">= 400"))
        .route("applied", &route("= 200"));
    let host = device.start(&manifest);
    let mut journal = device.journal();
    let first = journal.wait_for("the answer to the manifest's section", |all| all.first().cloned());
    assert_eq!(text(&first, "/source"), "/twinChangeNotifications");
    assert_eq!(text(&first, "/properties/moduleId"), "filter");
    assert_eq!(text(&first, "/systemProperties/messageId"), "filter-reported-2");
    assert_eq!(first["body"]["desiredAck"], host.twin("filter")["reported"]["desiredAck"]);

    let _ = device.marram(&["twin", "set", "filter", r#"{"threshold":"high"}"#]).ok();
    let refused = journal.wait_for("the refusal", |all| all.get(1).cloned());
    assert_eq!(refused["body"]["desiredAck"]["code"], 400, "{refused}");
    assert_eq!(refused["body"]["desiredAck"]["version"], 3, "{refused}");
    host.stop();

    // Each start asks the module anew; its answer is the same, which is no change.
    let host = device.start_stored(&[]);
    host.wait("the answer of the new instance", |host| {
        host.logs("filter").iter().any(|line| line.starts_with("refused: ")).then_some(())
    });
    let _ = device.marram(&["twin", "set", "filter", r#"{"threshold":2}"#]).ok();
    let next = journal.wait_for("the next change", |all| all.get(2).cloned());
    assert_eq!(next["body"]["desiredAck"]["version"], 4, "nothing was told twice: {next}");
    host.stop();
    assert_eq!(journal.read().iter().filter(|entry| **entry != Value::Null).count(), 3);
}
