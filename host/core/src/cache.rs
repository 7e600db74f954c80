//! What leaves the device when its caches grow too large: decided over a list of what is kept. Lists no folder, removes
//! nothing, reads no clock; [`crate::ports::ComponentCache`] and [`crate::ports::CodeCache`] do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    name::ModuleName,
    ports::{KeptCode, KeptComponent},
    time::UtcMillis,
};

/// Cap on the caches unless the owner says otherwise. Twenty Rust modules in two versions, machine code included, or one of
/// Python (40 MiB, and twice that as code) beside its update; half of the smallest flash that devices of this class have.
pub const DEFAULT_MAX_BYTES: u64 = 256 << 20;

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
    /// Names of machine code that nothing can run any more: of components that are gone, or of another engine.
    pub waste: Vec<String>,
    /// Their bytes.
    pub waste_bytes: u64,
}

impl Inventory {
    /// Puts the lists of both caches together. `modules`: each module with a component that it is deployed with or runs.
    #[must_use]
    pub fn new(components: Vec<KeptComponent>, code: Vec<KeptCode>, modules: &[(ModuleName, String)]) -> Self {
        let mut items: BTreeMap<String, Item> =
            components.into_iter().map(|kept| (kept.digest.clone(), item(kept))).collect();
        let (mut waste, mut waste_bytes) = (Vec::new(), 0_u64);
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
        Self { items: items.into_values().collect(), waste, waste_bytes }
    }

    /// Bytes of the components and their code, waste not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes()))
    }
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
    /// The components and their code have at most this many bytes.
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
    /// Digests of those that the goal wants gone and that stay because they are in use.
    pub in_use: Vec<String>,
}

/// Decides which components are removed: never one in use, and for [`Goal::MaxBytes`] no more than needed, those used
/// longest ago first.
#[must_use]
pub fn plan(inventory: &Inventory, goal: Goal) -> Plan {
    let mut items: Vec<&Item> = inventory.items.iter().collect();
    // The digest makes the order of those of one moment no matter of chance.
    items.sort_by_key(|item| (item.last_use, &item.component));
    let (in_use, free): (Vec<&Item>, Vec<&Item>) = items.into_iter().partition(|item| item.is_in_use());
    let digests = |items: &[&Item]| items.iter().map(|item| item.component.clone()).collect::<Vec<_>>();
    match goal {
        Goal::InUse => Plan { remove: digests(&free), in_use: digests(&in_use) },
        Goal::UnusedSinceMs(time) => {
            let old =
                |items: Vec<&Item>| digests(&items.into_iter().filter(|item| item.last_use < time).collect::<Vec<_>>());
            Plan { remove: old(free), in_use: old(in_use) }
        }
        Goal::MaxBytes(most) => {
            let mut bytes = inventory.bytes();
            let mut remove = Vec::new();
            for item in free {
                if bytes <= most {
                    break;
                }
                bytes = bytes.saturating_sub(item.bytes());
                remove.push(item.component.clone());
            }
            Plan { remove, in_use: if bytes > most { digests(&in_use) } else { Vec::new() } }
        }
    }
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

    fn modules(of: &[(&str, &str)]) -> Vec<(ModuleName, String)> {
        of.iter().map(|(name, digest)| (ModuleName::new(name).unwrap(), (*digest).to_owned())).collect()
    }

    /// Four of 10 bytes each: the oldest is deployed, the youngest is held.
    fn four() -> Inventory {
        let mut young = component("young", 10, 4);
        young.held = true;
        let components = vec![component("old", 10, 2), component("oldest", 10, 1), young, component("mid", 10, 3)];
        Inventory::new(components, Vec::new(), &modules(&[("m", "oldest")]))
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
            Plan { remove: vec!["old".into(), "mid".into()], in_use: vec!["oldest".into(), "young".into()] }
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
        let found = Inventory::new(vec![component("a", 10, 1)], code, &[]);
        assert_eq!((found.bytes(), found.items[0].code_bytes), (40, 30));
        assert_eq!((found.waste, found.waste_bytes), (vec!["a-false".to_owned(), "gone-true".to_owned()], 25));
    }

    #[test]
    fn code_that_is_loaded_is_no_waste_and_holds_its_component() {
        let held = |component: &str| KeptCode { held: true, ..code(component, 1, true) };
        let found = Inventory::new(vec![component("a", 10, 1)], vec![held("a"), held("gone")], &[]);
        assert!(found.waste.is_empty());
        assert!(found.items[0].is_in_use());
    }

    fn any_inventory() -> impl Strategy<Value = Inventory> {
        let item = (0_u64..100, 0_u64..100, 0_u64..20, any::<bool>(), any::<bool>());
        prop::collection::vec(item, 0..12).prop_map(|items| {
            let item = |(number, (bytes, code, last_use, deployed, held)): (usize, (u64, u64, u64, bool, bool))| Item {
                component: format!("{number:02}"),
                images: Vec::new(),
                component_bytes: bytes,
                code_bytes: code,
                last_use: UtcMillis(last_use),
                modules: deployed.then(|| ModuleName::new("m").unwrap()).into_iter().collect(),
                held,
            };
            Inventory { items: items.into_iter().enumerate().map(item).collect(), ..Inventory::default() }
        })
    }

    proptest! {
        #[test]
        fn no_plan_touches_what_is_in_use(inventory in any_inventory(), most in 0_u64..2000, since in 0_u64..25) {
            for goal in [Goal::MaxBytes(most), Goal::UnusedSinceMs(UtcMillis(since)), Goal::InUse] {
                let plan = plan(&inventory, goal);
                let used: Vec<_> = inventory.items.iter().filter(|item| item.is_in_use()).map(|item| &item.component).collect();
                prop_assert!(plan.remove.iter().all(|digest| !used.contains(&digest)));
                prop_assert!(plan.in_use.iter().all(|digest| used.contains(&digest)));
            }
        }

        #[test]
        fn a_cap_is_kept_by_removing_the_oldest_or_all_that_is_free_is_gone(inventory in any_inventory(), most in 0_u64..2000) {
            let plan = plan(&inventory, Goal::MaxBytes(most));
            let gone = |item: &&Item| plan.remove.contains(&item.component);
            let left: u64 = inventory.items.iter().filter(|item| !gone(item)).map(Item::bytes).sum();
            let free = inventory.items.iter().filter(|item| !item.is_in_use());
            prop_assert!(left <= most || free.clone().all(|item| gone(&item)));
            // No survivor that is free was used before one that had to go; and without the last one to go, the cap is broken.
            let youngest_gone = inventory.items.iter().filter(gone).map(|item| item.last_use).max();
            let oldest_left = free.clone().filter(|item| !gone(item)).map(|item| item.last_use).min();
            prop_assert!(youngest_gone.is_none_or(|gone| oldest_left.is_none_or(|left| gone <= left)));
            if let Some(last) = plan.remove.last() {
                let last = inventory.items.iter().find(|item| item.component == *last).unwrap();
                prop_assert!(left + last.bytes() > most);
            }
        }
    }
}
