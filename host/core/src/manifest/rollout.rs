//! `marram` of `$edgeAgent`: when a deployment counts as good, and what happens if it is not. Our own keys: an unknown one is a
//! fault.

use std::{ops::RangeInclusive, time::Duration};

use super::{fields::Field, findings::Findings, json::Node, values};
use crate::deployment::RolloutOptions;

/// A day: what takes longer to show is not found by watching.
const PROBATION: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(2 * 86_400);

/// Reads it.
pub(super) fn read(marram: &Field<'_>, found: &mut Findings) -> RolloutOptions {
    let mut options = RolloutOptions::default();
    let Some(mut fields) = marram.fields(found) else { return options };
    let rollback = fields.optional("rollback", found).and_then(|field| flag(&field, found));
    let probation = fields.optional("probation", found).and_then(|field| values::duration(&field, PROBATION, found));
    let timeout = fields.optional("healthTimeout", found);
    let wait = fields.optional("waitForNetwork", found).and_then(|field| flag(&field, found));
    fields.refuse_rest(found);
    options.rollback = rollback.unwrap_or(options.rollback);
    options.probation = probation.unwrap_or(options.probation);
    options.wait_for_network = wait.unwrap_or(options.wait_for_network);
    if let Some(field) = timeout {
        options.health_timeout = values::duration(&field, TIMEOUT, found);
        if options.health_timeout.is_some_and(|timeout| timeout <= options.probation) {
            let message = "must be longer than `probation`: no module could become healthy in time";
            found.fault(&field.at, message);
        }
    }
    options
}

fn flag(field: &Field<'_>, found: &mut Findings) -> Option<bool> {
    match field.node {
        Node::Bool(value) => Some(*value),
        _ => field.expected("true or false", found),
    }
}
