//! The device's ceiling: what all modules that are to run may take together.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    findings::{At, Findings, shown},
    values::size,
};
use crate::{
    deployment::{DesiredStatus, ModuleSpec},
    name::ModuleName,
};

/// Modules that a fault names; the largest are those whose limits are worth a look.
const NAMED: usize = 3;

/// A fault if the memory limits of the modules that are to run exceed `ceiling` together. Those desired stopped take nothing.
pub(super) fn check(at: &At, modules: &BTreeMap<ModuleName, ModuleSpec>, ceiling: Option<u64>, found: &mut Findings) {
    let Some(ceiling) = ceiling else { return };
    let mut running: Vec<&ModuleSpec> =
        modules.values().filter(|spec| spec.desired_status == DesiredStatus::Running).collect();
    let sum = running.iter().fold(0_u64, |sum, spec| sum.saturating_add(spec.sandbox.memory_bytes));
    if sum <= ceiling {
        return;
    }
    running.sort_by_key(|spec| Reverse(spec.sandbox.memory_bytes)); // stable: by name within a size
    let largest: Vec<String> = running
        .iter()
        .take(NAMED)
        .map(|spec| format!("`{}` {}", shown(spec.name.as_str()), size(spec.sandbox.memory_bytes)))
        .collect();
    let message = format!(
        "the memory limits of the modules that are to run make {} together, and this device allows {}; the largest: {}",
        size(sum),
        size(ceiling),
        largest.join(", ")
    );
    let hint = "lower `limits.memory` of some (it is 64MiB where nothing is said), or set their `status` to `stopped`; the \
                device's owner sets the ceiling, `modules.max-memory-bytes` in marram.toml";
    found.fault_hint(at, message, hint);
}
