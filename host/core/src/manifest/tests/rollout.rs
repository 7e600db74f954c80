//! `marram` of `$edgeAgent`.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::deployment::RolloutOptions;

fn options(marram: Value) -> Result<RolloutOptions, Vec<Finding>> {
    let reading = read_str(&with(&[("agent/marram", marram)])).map_err(|faults| faults.0)?;
    assert!(reading.warnings.is_empty(), "{:?}", reading.warnings);
    Ok(reading.deployment.rollout)
}

#[test]
fn a_deployment_is_rolled_back_unless_it_says_otherwise() {
    let silent = read_str(&base().to_string()).unwrap().deployment.rollout;
    assert_eq!(silent, RolloutOptions::default());
    assert_eq!((silent.rollback, silent.wait_for_network), (true, true));
    assert_eq!((silent.probation.as_secs(), silent.timeout().as_secs()), (60, 300));
    assert_eq!(options(json!({})), Ok(silent));
    let all = json!({ "rollback": false, "probation": "2s", "healthTimeout": "1m", "waitForNetwork": false });
    let read = options(all).unwrap();
    assert_eq!((read.rollback, read.wait_for_network), (false, false));
    assert_eq!((read.probation.as_secs(), read.timeout().as_secs()), (2, 60));
    let long = options(json!({ "probation": "10m" })).unwrap();
    assert_eq!(long.timeout(), Duration::from_secs(600 + 240), "the time-out grows with the probation");
}

#[test]
fn what_could_never_be_met_is_a_fault_and_so_is_a_misspelt_key() {
    let at = |marram: Value| {
        let faults = options(marram).unwrap_err();
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        (fault.at.rsplit('.').next().unwrap().to_owned(), fault.message.clone())
    };
    assert_eq!(at(json!({ "probation": "5m", "healthTimeout": "5m" })).0, "healthTimeout");
    assert_eq!(at(json!({ "healthTimeout": "1m" })).0, "healthTimeout", "the default probation is a minute");
    assert_eq!(at(json!({ "rolback": true })), ("rolback".into(), "unknown key".into()));
    assert_eq!(at(json!({ "rollback": "yes" })).0, "rollback");
    assert_eq!(at(json!({ "probation": "25h" })).0, "probation");
}
