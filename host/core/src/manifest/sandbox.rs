//! `settings.sandbox`: limits and grants of a module. Our own keys: an unknown one is a fault, because a misspelt limit
//! would be no limit. The device owner's policy is not here; it wins over what is read here.

use std::{collections::BTreeSet, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{fields::Field, findings::Findings, health, json::Node, values};
use crate::deployment::{HealthCheck, Mount, Sandbox};

/// `limits.memory`: from one page of WebAssembly to all that a 32-bit memory can address.
pub const MEMORY_BOUNDS: RangeInclusive<u64> = 64 << 10..=4 << 30;
/// `limits.handlerTime` and `limits.handlerWall`. A call that may take longer than an hour is a program's work.
pub const HANDLER_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
/// Longest path in bytes, Linux's own limit.
pub const MAX_PATH_BYTES: usize = 4096;

/// What it says.
#[derive(Default)]
pub(super) struct Read {
    pub(super) sandbox: Sandbox,
    /// Apart, because only the planner reads it: a change of it needs no new instance.
    pub(super) max_restarts: Option<u32>,
    /// Apart, because the instance knows nothing of it either.
    pub(super) health: Option<HealthCheck>,
}

/// Reads `settings.sandbox`, or `marram` in its place.
pub(super) fn read(field: &Field<'_>, found: &mut Findings) -> Read {
    let mut read = Read::default();
    let Some(mut fields) = field.fields(found) else { return read };
    if let Some(limits) = fields.optional("limits", found) {
        read_limits(&limits, &mut read, found);
    }
    read.health = fields.optional("health", found).and_then(|field| health::read(&field, found));
    let sandbox = &mut read.sandbox;
    if let Some(filesystem) = fields.optional("filesystem", found) {
        sandbox.mounts = read_filesystem(&filesystem, found);
    }
    if let Some(args) = fields.optional("args", found) {
        sandbox.args = read_args(&args, found);
    }
    for name in ["network", "http"] {
        if let Some(grant) = fields.optional(name, found) {
            found.fault(&grant.at, format!("this version cannot grant `{name}` yet; a later one will"));
        }
    }
    fields.refuse_rest(found);
    read
}

fn read_limits(limits: &Field<'_>, read: &mut Read, found: &mut Findings) {
    let Some(mut fields) = limits.fields(found) else { return };
    let memory = fields.optional("memory", found).and_then(|f| values::bytes(&f, MEMORY_BOUNDS, found));
    let time = fields.optional("handlerTime", found);
    let wall = fields.optional("handlerWall", found);
    read.max_restarts = fields.optional("maxRestarts", found).and_then(|f| values::integer(&f, 0..=u32::MAX, found));
    fields.refuse_rest(found);
    let mut duration = |field: &Option<Field<'_>>| values::duration(field.as_ref()?, HANDLER_BOUNDS, found);
    let (handler_time, handler_wall) = (duration(&time), duration(&wall));
    let sandbox = &mut read.sandbox;
    sandbox.memory_bytes = memory.unwrap_or(sandbox.memory_bytes);
    sandbox.handler_time = handler_time.unwrap_or(sandbox.handler_time);
    sandbox.handler_wall = handler_wall.unwrap_or(sandbox.handler_wall);
    if sandbox.handler_wall < sandbox.handler_time {
        let message = "`handlerWall` is shorter than `handlerTime`: it ends every call first";
        found.warn(&limits.at, message);
    }
}

fn read_filesystem(filesystem: &Field<'_>, found: &mut Findings) -> Vec<Mount> {
    let Some(items) = filesystem.items(found) else { return Vec::new() };
    let mut guests = BTreeSet::new();
    let mut mounts = Vec::new();
    for item in items {
        let Some(mount) = read_mount(&item, found) else { continue };
        if !guests.insert(mount.guest.clone()) {
            found.fault(&item.at.key("guest"), "another entry has this path in the module already");
        }
        mounts.push(mount);
    }
    mounts
}

fn read_mount(item: &Field<'_>, found: &mut Findings) -> Option<Mount> {
    let mut fields = item.fields(found)?;
    let host = fields.required("host", found).and_then(|f| read_path(&f, found));
    let guest = fields.required("guest", found).and_then(|f| read_path(&f, found));
    let access = [("read-only", false), ("read-write", true)];
    let writable = fields.optional("access", found).map(|f| values::word(&f, "access", &access, found));
    fields.refuse_rest(found);
    // Without a word: the lesser grant.
    Some(Mount { host: PathBuf::from(host?), guest: guest?, writable: writable.unwrap_or(Some(false))? })
}

/// An absolute path that means what it says: no `.`, no `..`, no empty part. A slash at its end is cut.
fn read_path(field: &Field<'_>, found: &mut Findings) -> Option<String> {
    let text = field.text(found)?;
    let rule = match text.strip_prefix('/') {
        None => Some("expected an absolute path, beginning with `/`"),
        Some(_) if text.len() > MAX_PATH_BYTES => Some("a path has at most 4096 bytes"),
        Some(_) if text.contains(char::is_control) => Some("a path may not contain control characters"),
        Some("") => None,
        Some(rest) => {
            let mut parts = rest.strip_suffix('/').unwrap_or(rest).split('/');
            parts.any(|part| matches!(part, "" | "." | "..")).then_some("a path may not contain `.`, `..` or `//`")
        }
    };
    if let Some(rule) = rule {
        found.fault(&field.at, rule);
        return None;
    }
    let cut = text.strip_suffix('/').unwrap_or(text);
    Some(if cut.is_empty() { "/" } else { cut }.to_owned())
}

fn read_args(args: &Field<'_>, found: &mut Findings) -> Vec<String> {
    let Some(items) = args.items(found) else { return Vec::new() };
    let mut read = Vec::new();
    for item in items {
        match item.node {
            Node::Text(text) if text.contains('\0') => found.fault(&item.at, "an argument may not contain a NUL"),
            _ => read.extend(item.text(found).map(str::to_owned)),
        }
    }
    read
}
