//! `health` of a module: by which method, how often and how long it is asked whether it is well. Our own keys: an unknown one is a
//! fault.

use std::{ops::RangeInclusive, time::Duration};

use super::{fields::Field, findings::Findings, values};
use crate::{
    deployment::{DEFAULT_HEALTH_FAILURES, DEFAULT_HEALTH_INTERVAL, DEFAULT_HEALTH_TIMEOUT, HealthCheck},
    methods::{MAX_METHOD_NAME, MAX_TIMEOUT},
};

/// Shorter than a second, a check would be a load; what is asked less than daily is not watched.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Up to the longest wait for the answer of a method.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=MAX_TIMEOUT;
/// Beyond, nothing would ever be found unhealthy.
const FAILURES: RangeInclusive<u32> = 1..=1000;

/// Reads it; none if there is a fault in it.
pub(super) fn read(health: &Field<'_>, found: &mut Findings) -> Option<HealthCheck> {
    let mut fields = health.fields(found)?;
    let method = fields.required("method", found).and_then(|field| read_method(&field, found));
    let interval = fields.optional("interval", found).map(|field| values::duration(&field, INTERVAL, found));
    let timeout = fields.optional("timeout", found).map(|field| values::duration(&field, TIMEOUT, found));
    let failures = fields.optional("failures", found).map(|field| values::integer(&field, FAILURES, found));
    fields.refuse_rest(found);
    Some(HealthCheck {
        method: method?,
        interval: interval.unwrap_or(Some(DEFAULT_HEALTH_INTERVAL))?,
        timeout: timeout.unwrap_or(Some(DEFAULT_HEALTH_TIMEOUT))?,
        failures: failures.unwrap_or(Some(DEFAULT_HEALTH_FAILURES))?,
    })
}

/// A name as calls of methods have it.
fn read_method(field: &Field<'_>, found: &mut Findings) -> Option<String> {
    let name = field.text(found)?;
    let characters = name.chars().count();
    if name.trim().is_empty() {
        found.fault(&field.at, "the name of a method may not be empty or blank");
        return None;
    }
    if characters > MAX_METHOD_NAME {
        let message =
            format!("the name of a method has at most {MAX_METHOD_NAME} characters, this one has {characters}");
        found.fault(&field.at, message);
        return None;
    }
    Some(name.to_owned())
}
