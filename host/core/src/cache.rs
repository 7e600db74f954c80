//! What leaves the device when its caches grow too large: decided over a list of what is kept. Lists no folder, removes
//! nothing, reads no clock; [`crate::ports::ComponentCache`] and [`crate::ports::CodeCache`] do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    name::ModuleName,
    ports::{KeptCode, KeptComponent, KeptComponents, KeptPart},
    time::UtcMillis,
};

/// Cap on the caches unless the owner says otherwise. Twenty Rust modules in two versions, machine code included, or one of
/// Python (40 MiB, and twice that as code) beside its update; half of the smallest flash that devices of this class have.
pub const DEFAULT_MAX_BYTES: u64 = 256 << 20;

/// A part of a component to which nothing came for so long is of no use. Who was offline for a week fetches anew.
pub const PART_STALE_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// A part to which something came within this time stays, whatever the cap: who wants it tries again every few minutes, and
/// on a bad line it may be a day's work. A day and no longer: then the cap counts for more.
pub const PART_FRESH_FOR: Duration = Duration::from_secs(86_400);

impl KeptPart {
    /// Nobody goes on with it. A clock that was set back makes no part stale.
    #[must_use]
    pub fn is_stale(&self, now: UtcMillis) -> bool {
        !self.held && self.age(now) > PART_STALE_AFTER
    }

    fn is_fresh(&self, now: UtcMillis) -> bool {
        self.held || self.age(now) < PART_FRESH_FOR
    }

    fn age(&self, now: UtcMillis) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.last_use.0))
    }
}

/// A component with all that is kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Digest of the component's bytes: `sha256:…`.
    #[serde(rename = "componentDigest")]
    pub component: String,
    /// The images that lead to it, in full.
    pub images: Vec<String>,
    /// Bytes of the component and of the documents that lead to it.
    pub component_bytes: u64,
    /// Bytes of its machine code.
    pub code_bytes: u64,
    /// When it was fetched, started or stopped last; at most a day too early.
    #[serde(rename = "lastUseMs")]
    pub last_use: UtcMillis,
    /// The modules that are deployed with it or run it.
    pub modules: BTreeSet<ModuleName>,
    /// It is being fetched, compiled or run.
    pub held: bool,
}

impl Item {
    /// Bytes of all that is kept of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.component_bytes.saturating_add(self.code_bytes)
    }

    /// Somebody needs it: it stays, whatever the goal.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.held || !self.modules.is_empty()
    }
}

/// What is kept, put together from both caches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The components, by digest.
    pub items: Vec<Item>,
    /// What has arrived of components and is not stale.
    pub parts: Vec<KeptPart>,
    /// Digests of stale parts.
    pub stale: Vec<String>,
    /// By the clock of the times of last use.
    pub now: UtcMillis,
    /// Names of machine code that nothing can run any more: of components that are gone, or of another engine.
    pub waste: Vec<String>,
    /// The bytes of both, and of all to which nothing leads.
    pub waste_bytes: u64,
}

impl Inventory {
    /// Puts the lists of both caches together. `modules`: each module with a component that it is deployed with or runs.
    #[must_use]
    pub fn new(kept: KeptComponents, code: Vec<KeptCode>, modules: &[(ModuleName, String)]) -> Self {
        let KeptComponents { components, parts, other_bytes, now } = kept;
        let mut items: BTreeMap<String, Item> =
            components.into_iter().map(|kept| (kept.digest.clone(), item(kept))).collect();
        let (stale, parts): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.is_stale(now));
        let (mut waste, mut waste_bytes) = (Vec::new(), sum(&stale).saturating_add(other_bytes));
        for code in code {
            match items.get_mut(&code.component) {
                Some(item) if code.usable => {
                    item.code_bytes = item.code_bytes.saturating_add(code.bytes);
                    item.held |= code.held;
                }
                _ if code.held => {}
                _ => {
                    waste.push(code.name);
                    waste_bytes = waste_bytes.saturating_add(code.bytes);
                }
            }
        }
        for (module, component) in modules {
            if let Some(item) = items.get_mut(component) {
                item.modules.insert(module.clone());
            }
        }
        let stale = stale.into_iter().map(|part| part.digest).collect();
        Self { items: items.into_values().collect(), parts, stale, now, waste, waste_bytes }
    }

    /// Bytes of the components, their code and the parts, waste not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items.iter().fold(self.part_bytes(), |sum, item| sum.saturating_add(item.bytes()))
    }

    /// Bytes of the parts.
    #[must_use]
    pub fn part_bytes(&self) -> u64 {
        sum(&self.parts)
    }
}

fn sum(parts: &[KeptPart]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
}

fn item(kept: KeptComponent) -> Item {
    Item {
        component: kept.digest,
        images: kept.images,
        component_bytes: kept.bytes,
        code_bytes: 0,
        last_use: kept.last_use,
        modules: BTreeSet::new(),
        held: kept.held,
    }
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Goal {
    /// The components, their code and the parts have at most this many bytes.
    MaxBytes(u64),
    /// Nothing is left that was used last before this time.
    UnusedSinceMs(UtcMillis),
    /// Only what is in use is left.
    InUse,
}

/// What to do about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Digests of the components to remove, in this order: the one that was used longest ago first.
    pub remove: Vec<String>,
    /// Digests of the parts to remove, the stale ones included.
    pub remove_parts: Vec<String>,
    /// Digests of those that the goal wants gone and that stay because they are in use.
    pub in_use: Vec<String>,
}

/// Decides what is removed: never a component in use nor a part that is being downloaded, and for [`Goal::MaxBytes`] no more
/// than needed, no fresh part, and what was used longest ago first.
#[must_use]
pub fn plan(inventory: &Inventory, goal: Goal) -> Plan {
    let mut plan = Plan { remove_parts: inventory.stale.clone(), ..Plan::default() };
    let is_wanted_gone: &dyn Fn(UtcMillis) -> bool = match goal {
        Goal::MaxBytes(most) => {
            within(inventory, most, &mut plan);
            return plan;
        }
        Goal::UnusedSinceMs(time) => &move |last_use| last_use < time,
        Goal::InUse => &|_| true,
    };
    for item in by_last_use(inventory).into_iter().filter(|item| is_wanted_gone(item.last_use)) {
        let list = if item.is_in_use() { &mut plan.in_use } else { &mut plan.remove };
        list.push(item.component.clone());
    }
    let gone = inventory.parts.iter().filter(|part| !part.held && is_wanted_gone(part.last_use));
    plan.remove_parts.extend(gone.map(|part| part.digest.clone()));
    plan
}

fn within(inventory: &Inventory, most: u64, plan: &mut Plan) {
    let parts = inventory.parts.iter().filter(|part| !part.is_fresh(inventory.now));
    let parts = parts.map(|part| (part.last_use, &part.digest, part.bytes, true));
    let items = inventory.items.iter().filter(|item| !item.is_in_use());
    let items = items.map(|item| (item.last_use, &item.component, item.bytes(), false));
    let mut free: Vec<_> = parts.chain(items).collect();
    free.sort_unstable();
    let mut bytes = inventory.bytes();
    for (_, digest, freed, is_part) in free {
        if bytes <= most {
            return;
        }
        bytes = bytes.saturating_sub(freed);
        let list = if is_part { &mut plan.remove_parts } else { &mut plan.remove };
        list.push(digest.clone());
    }
    if bytes > most {
        let in_use = by_last_use(inventory).into_iter().filter(|item| item.is_in_use());
        plan.in_use = in_use.map(|item| item.component.clone()).collect();
    }
}

/// The digest makes the order of those of one moment no matter of chance.
fn by_last_use(inventory: &Inventory) -> Vec<&Item> {
    let mut items: Vec<&Item> = inventory.items.iter().collect();
    items.sort_by_key(|item| (item.last_use, &item.component));
    items
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn component(digest: &str, bytes: u64, last_use: u64) -> KeptComponent {
        let (digest, images) = (digest.to_owned(), vec![format!("registry.test/{digest}:1")]);
        KeptComponent { digest, images, named: Vec::new(), bytes, last_use: UtcMillis(last_use), held: false }
    }

    fn code(component: &str, bytes: u64, usable: bool) -> KeptCode {
        let (name, component) = (format!("{component}-{usable}"), component.to_owned());
        KeptCode { name, component, bytes, usable, held: false }
    }

    fn kept(components: Vec<KeptComponent>) -> KeptComponents {
        KeptComponents { components, ..KeptComponents::default() }
    }

    const HOUR: u64 = 3_600_000;
    /// Long after the parts of the tests.
    const NOW: UtcMillis = UtcMillis(1000 * HOUR);

    /// 10 bytes, the last of which came so many hours ago.
    fn part(hours_ago: u64, held: bool) -> KeptPart {
        KeptPart { digest: format!("{hours_ago}h"), bytes: 10, last_use: UtcMillis(NOW.0 - hours_ago * HOUR), held }
    }

    fn with_parts(parts: Vec<KeptPart>) -> Inventory {
        let components = vec![component("item", 10, NOW.0 - 30 * HOUR)];
        Inventory::new(KeptComponents { components, parts, other_bytes: 3, now: NOW }, Vec::new(), &[])
    }

    fn modules(of: &[(&str, &str)]) -> Vec<(ModuleName, String)> {
        of.iter().map(|(name, digest)| (ModuleName::new(name).unwrap(), (*digest).to_owned())).collect()
    }

    /// Four of 10 bytes each: the oldest is deployed, the youngest is held.
    fn four() -> Inventory {
        let mut young = component("young", 10, 4);
        young.held = true;
        let components = vec![component("old", 10, 2), component("oldest", 10, 1), young, component("mid", 10, 3)];
        Inventory::new(kept(components), Vec::new(), &modules(&[("m", "oldest")]))
    }

    fn removed(goal: Goal) -> Vec<String> {
        plan(&four(), goal).remove
    }

    #[test]
    fn the_one_used_longest_ago_goes_first_and_no_more_than_needed() {
        assert_eq!(removed(Goal::MaxBytes(40)), [""; 0]);
        assert_eq!(removed(Goal::MaxBytes(39)), ["old"]);
        assert_eq!(removed(Goal::MaxBytes(30)), ["old"]);
        assert_eq!(removed(Goal::MaxBytes(29)), ["old", "mid"]);
    }

    #[test]
    fn what_is_in_use_stays_and_is_named() {
        let plan = |goal| plan(&four(), goal);
        assert_eq!(
            plan(Goal::MaxBytes(0)),
            Plan {
                remove: vec!["old".into(), "mid".into()],
                remove_parts: Vec::new(),
                in_use: vec!["oldest".into(), "young".into()]
            }
        );
        assert_eq!(plan(Goal::InUse), plan(Goal::MaxBytes(0)));
        assert_eq!(plan(Goal::MaxBytes(20)).in_use, [""; 0], "the goal is reached without them");
    }

    #[test]
    fn age_alone_removes_what_was_used_before() {
        let plan = plan(&four(), Goal::UnusedSinceMs(UtcMillis(3)));
        assert_eq!((plan.remove, plan.in_use), (vec!["old".to_owned()], vec!["oldest".to_owned()]));
    }

    #[test]
    fn code_counts_with_its_component_and_is_waste_without_one() {
        let code = vec![code("a", 30, true), code("a", 20, false), code("gone", 5, true)];
        let found = Inventory::new(kept(vec![component("a", 10, 1)]), code, &[]);
        assert_eq!((found.bytes(), found.items[0].code_bytes), (40, 30));
        assert_eq!((found.waste, found.waste_bytes), (vec!["a-false".to_owned(), "gone-true".to_owned()], 25));
    }

    #[test]
    fn code_that_is_loaded_is_no_waste_and_holds_its_component() {
        let held = |component: &str| KeptCode { held: true, ..code(component, 1, true) };
        let found = Inventory::new(kept(vec![component("a", 10, 1)]), vec![held("a"), held("gone")], &[]);
        assert!(found.waste.is_empty());
        assert!(found.items[0].is_in_use());
    }

    #[test]
    fn parts_count_against_the_cap_and_go_in_the_order_of_their_last_use() {
        let found = with_parts(vec![part(40, false), part(25, false)]);
        let removed = |most| {
            let plan = plan(&found, Goal::MaxBytes(most));
            (plan.remove_parts.join(" "), plan.remove.join(" "))
        };
        assert_eq!((found.bytes(), found.part_bytes(), found.waste_bytes), (30, 20, 3));
        assert_eq!(removed(30), ("".into(), "".into()));
        assert_eq!(removed(29), ("40h".into(), "".into()));
        assert_eq!(removed(19), ("40h".into(), "item".into()));
        assert_eq!(removed(9), ("40h 25h".into(), "item".into()));
    }

    #[test]
    fn a_cap_spares_what_came_within_a_day_and_whoever_asks_for_all_does_not() {
        let found = with_parts(vec![part(23, false), part(22, true)]);
        assert_eq!(plan(&found, Goal::MaxBytes(0)).remove_parts, [""; 0]);
        assert_eq!(plan(&found, Goal::InUse).remove_parts, ["23h"]);
        let before = |hours: u64| plan(&found, Goal::UnusedSinceMs(UtcMillis(NOW.0 - hours * HOUR))).remove_parts;
        assert_eq!((before(22), before(23)), (vec!["23h".to_owned()], Vec::new()));
    }

    #[test]
    fn a_part_to_which_nothing_came_for_a_week_goes_whatever_the_goal() {
        let week = 7 * 24;
        let found = with_parts(vec![part(week + 1, false), part(week + 2, true), part(week, false)]);
        assert_eq!((found.bytes(), found.waste_bytes), (30, 13));
        for goal in [Goal::MaxBytes(1000), Goal::UnusedSinceMs(UtcMillis(0))] {
            assert_eq!(plan(&found, goal).remove_parts, ["169h"], "{goal:?}");
        }
        let ahead = KeptPart { last_use: UtcMillis(NOW.0 * 2), ..part(0, false) };
        assert!(!ahead.is_stale(NOW), "a clock that was set back makes nothing stale");
    }

    fn any_inventory() -> impl Strategy<Value = Inventory> {
        let item = (0_u64..100, 0_u64..100, 0_u64..400, any::<bool>(), any::<bool>());
        let part = (0_u64..200, 0_u64..400, any::<bool>());
        (prop::collection::vec(item, 0..12), prop::collection::vec(part, 0..6)).prop_map(|(items, parts)| {
            let item = |(number, (bytes, code, hour, deployed, held)): (usize, (u64, u64, u64, bool, bool))| Item {
                component: format!("{number:02}"),
                images: Vec::new(),
                component_bytes: bytes,
                code_bytes: code,
                last_use: UtcMillis(hour * HOUR),
                modules: deployed.then(|| ModuleName::new("m").unwrap()).into_iter().collect(),
                held,
            };
            let part = |(number, (bytes, hour, held)): (usize, (u64, u64, bool))| KeptPart {
                digest: format!("part {number}"),
                bytes,
                last_use: UtcMillis(hour * HOUR),
                held,
            };
            let parts = parts.into_iter().enumerate().map(part).collect();
            let found = KeptComponents { parts, now: UtcMillis(400 * HOUR), ..KeptComponents::default() };
            let items = items.into_iter().enumerate().map(item).collect();
            Inventory { items, ..Inventory::new(found, Vec::new(), &[]) }
        })
    }

    proptest! {
        #[test]
        fn no_plan_touches_what_is_in_use(inventory in any_inventory(), most in 0_u64..2000, since in 0_u64..450) {
            for goal in [Goal::MaxBytes(most), Goal::UnusedSinceMs(UtcMillis(since * HOUR)), Goal::InUse] {
                let plan = plan(&inventory, goal);
                let used: Vec<_> = inventory.items.iter().filter(|item| item.is_in_use()).map(|item| &item.component).collect();
                prop_assert!(plan.remove.iter().all(|digest| !used.contains(&digest)));
                prop_assert!(plan.in_use.iter().all(|digest| used.contains(&digest)));
                let held = inventory.parts.iter().filter(|part| part.held);
                prop_assert!(held.map(|part| &part.digest).all(|digest| !plan.remove_parts.contains(digest)));
                prop_assert!(inventory.stale.iter().all(|digest| plan.remove_parts.contains(digest)));
            }
        }

        #[test]
        fn a_cap_is_kept_by_removing_the_oldest_or_all_that_is_free_is_gone(inventory in any_inventory(), most in 0_u64..2000) {
            let plan = plan(&inventory, Goal::MaxBytes(most));
            // Whatever may go, as (last use, digest, bytes), with whether it goes.
            let items = inventory.items.iter().filter(|item| !item.is_in_use());
            let items = items.map(|item| ((item.last_use, &item.component, item.bytes()), plan.remove.contains(&item.component)));
            let parts = inventory.parts.iter().filter(|part| !part.is_fresh(inventory.now));
            let parts = parts.map(|part| ((part.last_use, &part.digest, part.bytes), plan.remove_parts.contains(&part.digest)));
            let (gone, left): (Vec<_>, Vec<_>) = items.chain(parts).partition(|(_, gone)| *gone);
            let freed: u64 = gone.iter().map(|((_, _, bytes), _)| bytes).sum();
            let rest = inventory.bytes() - freed;
            prop_assert!(rest <= most || left.is_empty());
            prop_assert_eq!(gone.len(), plan.remove.len() + plan.remove_parts.len() - inventory.stale.len(), "nothing else goes");
            // What was used before goes first; and without the last one to go, the cap is broken.
            let oldest_left = left.iter().map(|(what, _)| what.0).min();
            if let Some((last, _)) = gone.iter().max() {
                prop_assert!(oldest_left.is_none_or(|left| last.0 <= left));
                prop_assert!(rest + last.2 > most);
            }
        }
    }
}
