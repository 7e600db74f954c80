//! What a runtime reports of its modules, for `marram plan --observed`: IoT Edge's reported properties of `$edgeAgent`, of
//! which only `modules` and the fields in it that a plan depends on are read.

use super::{
    Faults,
    fields::Field,
    findings::{At, Findings},
    parse, values,
};
use crate::{
    name::ModuleName,
    planner::{Runtime, RuntimeModule, RuntimeStatus},
};

const STATUS: [(&str, RuntimeStatus); 7] = [
    ("unknown", RuntimeStatus::Unknown),
    ("backoff", RuntimeStatus::Backoff),
    ("running", RuntimeStatus::Running),
    ("unhealthy", RuntimeStatus::Unhealthy),
    ("stopped", RuntimeStatus::Stopped),
    ("failed", RuntimeStatus::Failed),
    ("dead", RuntimeStatus::Dead),
];

/// Reads `{"modules": {NAME: {"runtimeStatus", "exitCode", "restartCount", "lastStartTimeUtc", "lastExitTimeUtc",
/// "lastPullFailureTimeUtc", "settingsDigest"}}}`. Only `runtimeStatus` is required; other keys are as good as missing.
///
/// # Errors
/// [`Faults`]: everything that is wrong with it.
pub fn read_runtime(text: &str) -> Result<Runtime, Faults> {
    let mut found = Findings::default();
    let runtime = parse(text, "a report of a runtime", &mut found).map(|document| {
        let root = Field { node: &document, at: At::root() };
        read(&root, &mut found).unwrap_or_default()
    });
    if !found.faults.is_empty() {
        return Err(Faults(found.faults.told()));
    }
    Ok(runtime.unwrap_or_default())
}

fn read(root: &Field<'_>, found: &mut Findings) -> Option<Runtime> {
    let modules = root.fields(found)?.required("modules", found)?;
    let mut runtime = Runtime::default();
    for (text, node) in modules.entries(found)? {
        let field = Field { node, at: modules.at.key(text) };
        let name = ModuleName::new(text).map_err(|bad| found.fault(&field.at, bad.to_string()));
        if let (Some(module), Ok(name)) = (read_module(&field, found), name) {
            runtime.modules.insert(name, module);
        }
    }
    Some(runtime)
}

fn read_module(module: &Field<'_>, found: &mut Findings) -> Option<RuntimeModule> {
    let mut fields = module.fields(found)?;
    let status = fields.required("runtimeStatus", found);
    let status = status.and_then(|field| values::word(&field, "runtime status", &STATUS, found));
    let exit_code = fields.optional("exitCode", found).and_then(|f| values::integer(&f, i32::MIN..=i32::MAX, found));
    let restarts = fields.optional("restartCount", found).and_then(|f| values::integer(&f, 0..=u32::MAX, found));
    let last_start = fields.optional("lastStartTimeUtc", found).and_then(|f| values::time(&f, found));
    let last_exit = fields.optional("lastExitTimeUtc", found).and_then(|f| values::time(&f, found));
    let last_pull_failure = fields.optional("lastPullFailureTimeUtc", found).and_then(|f| values::time(&f, found));
    let digest = fields.optional("settingsDigest", found).and_then(|f| values::non_blank(&f, found));
    Some(RuntimeModule {
        status: status?,
        exit_code,
        restart_count: restarts.unwrap_or(0),
        last_start,
        last_exit,
        last_pull_failure,
        settings_digest: digest.map(str::to_owned),
    })
}
